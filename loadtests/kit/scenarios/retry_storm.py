"""Every payment is sent three times at once."""

import gevent
from locust import task

from loadtests.kit.traffic import body_of, transfer
from loadtests.kit.users import ANSWER_SECONDS_MAX, LedgerUser

TIMES = 3


class User(LedgerUser):
    """Sends the same request on three connections: one is executed, and all three hear of it."""

    @task
    def pay_three_times_at_once(self) -> None:
        """Send it, and again if nobody was answered."""
        key = self.new_key()
        body = body_of(transfer(*self.traffic.pair(), self.traffic.amount(), key))
        sendings = [
            gevent.spawn(self.send_transfer, key, body, process=f"{self.name}.{number}") for number in range(TIMES)
        ]
        gevent.joinall(sendings, timeout=2 * ANSWER_SECONDS_MAX)
        if not any(sending.value is not None and sending.value.settled for sending in sendings):
            self.insist(key, body)
