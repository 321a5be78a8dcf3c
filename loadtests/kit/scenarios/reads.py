"""Accounts are read, the busiest most; a payment now and then keeps them moving."""

from locust import task

from loadtests.kit.users import LedgerUser


class User(LedgerUser):
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
