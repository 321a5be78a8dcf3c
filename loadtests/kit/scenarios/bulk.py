"""Twenty transfers a request."""

from locust import task

from loadtests.kit.traffic import transfer
from loadtests.kit.users import LedgerUser

ITEMS = 20


class User(LedgerUser):
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
