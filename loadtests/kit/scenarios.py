"""What the users of each scenario do."""

import math

import gevent
from locust import task

from loadtests.kit.plan import TOO_MUCH
from loadtests.kit.traffic import body_of, transfer
from loadtests.kit.users import ANSWER_SECONDS_MAX, PLAN, LedgerUser

# Transfers of one request in a bulk.
ITEMS = 20
# Of one request in a storm.
TIMES = 3


class Reads(LedgerUser):
    """Reads; one request in ten is a payment, after which the user reads what it has paid from."""

    @task(9)
    def read_account(self) -> None:
        """Read an account."""
        self.read(self.traffic.busy_account())

    @task(1)
    def pay_and_read(self) -> None:
        """Pay from a busy account, then look at it."""
        destination = self.traffic.busy_account()
        source = next(account for account in self.traffic.pair() if account != destination)
        self.pay((source, destination), self.traffic.amount())
        self.read(destination)


class Payments(LedgerUser):
    """Pays; in 100 payments 5 answers are lost, 5 are asked for again, and 2 payments are of more than there is."""

    @task(98)
    def pay_somebody(self) -> None:
        """Pay."""
        lose, again = self.traffic.one_in(20), self.traffic.one_in(20)
        self.pay(self.traffic.pair(), self.traffic.amount(), lose=lose, again=again)

    @task(2)
    def pay_too_much(self) -> None:
        """Pay more than there is, and insist on it: the refusal stays, and then look that nothing has moved."""
        pair = self.traffic.pair()
        self.pay(pair, TOO_MUCH, lose=self.traffic.one_in(2), again=True, refused=True)
        self.read(pair[0])


class RetryStorm(LedgerUser):
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


class HotAccount(LedgerUser):
    """Pays; one payment in ten is to or from the same account as everybody's."""

    @task(1)
    def pay_hot(self) -> None:
        """Pay to or from the hot account."""
        self.pay(self.traffic.hot_pair(), self.traffic.amount())

    @task(9)
    def pay_cold(self) -> None:
        """Pay between two others."""
        self.pay(self.traffic.cold_pair(), self.traffic.amount())


class Flood(LedgerUser):
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


class Mixed(LedgerUser):
    """Pays and reads, a tenth of it on one account; loses answers, pays too much, uses a key twice by mistake."""

    @task(63)
    def pay_somebody(self) -> None:
        """Pay."""
        lose, again = self.traffic.one_in(20), self.traffic.one_in(10)
        self.pay(self.traffic.pair(), self.traffic.amount(), lose=lose, again=again)

    @task(8)
    def pay_hot(self) -> None:
        """Pay to or from the hot account, then look at it."""
        self.pay(self.traffic.hot_pair(), self.traffic.amount())

    @task(20)
    def read_account(self) -> None:
        """Read an account."""
        self.read(self.traffic.busy_account())

    @task(3)
    def pay_and_read(self) -> None:
        """Pay, then look at both accounts."""
        pair = self.traffic.pair()
        self.pay(pair, self.traffic.amount())
        for account in pair:
            self.read(account)

    @task(1)
    def pay_too_much(self) -> None:
        """Pay more than there is."""
        self.pay(self.traffic.pair(), TOO_MUCH, refused=True)

    @task(5)
    def use_a_key_twice(self) -> None:
        """Send another payment under a key that has been used: it is refused and the first one stays."""
        key = self.new_key()
        pair = self.traffic.pair()
        amount = self.traffic.amount()
        first = self.insist(key, body_of(transfer(*pair, amount, key)))
        if first.settled:
            self.send_transfer(key, body_of(transfer(*pair, amount + 1, key)), expected=(422,))


class Bulk(LedgerUser):
    """Sends bulks, each item for itself or all or none; one in four is sent a second time."""

    @task
    def send_each_for_itself(self) -> None:
        """Send a bulk whose items stand alone."""
        self._send(atomic=False)

    @task
    def send_all_or_none(self) -> None:
        """Send an atomic set."""
        self._send(atomic=True)

    def _send(self, *, atomic: bool) -> None:
        items = []
        for _ in range(ITEMS):
            key = self.new_key()
            items.append((key, transfer(*self.traffic.pair(), self.traffic.amount(), key)))
        self.send_bulk(items, atomic=atomic)
        if self.traffic.one_in(4):
            self.send_bulk(items, atomic=atomic)


USERS = {
    "reads": Reads,
    "payments": Payments,
    "retry_storm": RetryStorm,
    "hot_account": HotAccount,
    "flood": Flood,
    "mixed": Mixed,
    "bulk": Bulk,
}
