"""Four payments to one read, with what goes wrong among callers."""

from locust import task

from loadtests.kit.plan import TOO_MUCH
from loadtests.kit.traffic import body_of, transfer
from loadtests.kit.users import LedgerUser


class User(LedgerUser):
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
