"""How many answers a worker sends in pieces at once: each lasts as long as its client takes to read it."""

from collections import Counter
from typing import Final

from server.http.problems import Problem, retry_after_seconds

# Answers in pieces that a worker sends at once. Each holds a piece or two, some 200 KB and a megabyte at most.
STREAMS_MAX: Final = 32
# Those of one ledger: the others have room, however slowly its clients read.
STREAMS_OF_LEDGER_MAX: Final = 8


class Streams:
    """
    The answers in pieces that are being sent.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._of_ledgers: Counter[int] = Counter()

    def enter(self, ledger_id: int) -> None:
        """
        Count one more.

        Raises:
            Problem: There are as many as there may be.
        """
        if self.count >= STREAMS_MAX or self._of_ledgers[ledger_id] >= STREAMS_OF_LEDGER_MAX:
            whose = "The server" if self.count >= STREAMS_MAX else "This ledger"
            detail = (
                f"{whose} has as many long answers under way as it may: read those to their ends, or ask again later."
            )
            raise Problem("overloaded", detail, retry_after=retry_after_seconds())
        self.count += 1
        self._of_ledgers[ledger_id] += 1

    def leave(self, ledger_id: int) -> None:
        """Count one less."""
        self.count -= 1
        self._of_ledgers[ledger_id] -= 1
        if not self._of_ledgers[ledger_id]:
            del self._of_ledgers[ledger_id]
