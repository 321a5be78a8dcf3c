"""How many requests of a key are running: a limit of another kind, on what is held rather than on what comes."""

from server.gate.keys import ApiKey


class Running:
    """The requests that are running in this worker, by key. Keys that have none take no room."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str], int] = {}

    def enter(self, key: ApiKey) -> bool:
        """Count one more, or return False when the key has as many as it may."""
        name = (key.ledger_id, key.id)
        count = self._counts.get(name, 0)
        if count >= key.concurrency:
            return False
        self._counts[name] = count + 1
        return True

    def leave(self, key: ApiKey) -> None:
        """Count one less; the key may have been read anew since it entered."""
        name = (key.ledger_id, key.id)
        count = self._counts[name] - 1
        if count:
            self._counts[name] = count
        else:
            del self._counts[name]

    def count(self, key: ApiKey) -> int:
        """Return how many of a key are running."""
        return self._counts.get((key.ledger_id, key.id), 0)

    def __len__(self) -> int:
        """Return how many keys have requests running."""
        return len(self._counts)
