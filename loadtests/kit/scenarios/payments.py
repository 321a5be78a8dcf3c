"""Payments whose answers get lost at times, asked for again under the same key."""

from locust import task

from loadtests.kit.plan import TOO_MUCH
from loadtests.kit.users import LedgerUser


class User(LedgerUser):
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
