"""A tenth of all payments are on one account."""

from locust import task

from loadtests.kit.users import LedgerUser


class User(LedgerUser):
    """Pays; one payment in ten is to or from the same account as everybody's."""

    @task(1)
    def pay_hot(self) -> None:
        """Pay to or from the hot account."""
        self.pay(self.traffic.hot_pair(), self.traffic.amount())

    @task(9)
    def pay_cold(self) -> None:
        """Pay between two others."""
        self.pay(self.traffic.cold_pair(), self.traffic.amount())
