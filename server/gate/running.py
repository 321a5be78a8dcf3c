"""Limits how many requests of a key run at once: it bounds the work in progress, while rates bound the arrivals."""

from server.gate.keys import ApiKey


class Running:
    """Counts the requests that run in this worker, by key. Keys without running requests take no memory."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str], int] = {}

    def enter(self, key: ApiKey) -> bool:
        """Count one more request, or return False if the key has as many as it may."""
        name = (key.ledger_id, key.id)
        count = self._counts.get(name, 0)
        if count >= key.concurrency:
            return False
        self._counts[name] = count + 1
        return True

    def leave(self, key: ApiKey) -> None:
        """Count one request less; *key* may be another object than the one that entered, because keys are read anew."""
        name = (key.ledger_id, key.id)
        count = self._counts[name] - 1
        if count:
            self._counts[name] = count
        else:
            del self._counts[name]

    def count(self, key: ApiKey) -> int:
        """Return how many requests of a key are running."""
        return self._counts.get((key.ledger_id, key.id), 0)

    def __len__(self) -> int:
        """Return how many keys have requests running."""
        return len(self._counts)
