"""Ten times what the key's limit allows."""

import math

from locust import task

from loadtests.kit.traffic import body_of, transfer
from loadtests.kit.users import PLAN, LedgerUser


class User(LedgerUser):
    """Sends payments and does not wait when told to."""

    @task
    def pay_and_go_on(self) -> None:
        """Send a payment once. A 429 must say when there is room again, which is when the next token comes."""
        key = self.new_key()
        body = body_of(transfer(*self.traffic.pair(), self.traffic.amount(), key))
        answer = self.send_transfer(key, body, expected=(429,))
        if answer.status == 429 and PLAN.limit is not None:
            latest = math.ceil(1 / PLAN.limit.rate)
            if not answer.retry_after.isdigit() or not 1 <= int(answer.retry_after) <= latest:
                raise AssertionError(f"429 with Retry-After {answer.retry_after!r}, not 1 to {latest}")
