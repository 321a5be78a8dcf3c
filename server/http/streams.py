"""Limits how many long answers a worker has under way: those sent in pieces, and those that wait for events."""

from collections import Counter
from typing import ClassVar, Final

from server.http.problems import Problem, retry_after_seconds

# Answers in pieces that a worker sends at once. Each holds a piece or two, some 200 KB and a megabyte at most.
STREAMS_MAX: Final = 32
# Those of one ledger: the other ledgers have room, however slowly its clients read.
STREAMS_OF_LEDGER_MAX: Final = 8
# Streams of events that a worker sends at once, in all and of one ledger. A stream that is not read holds a page of
# 256 KB.
EVENT_STREAMS_MAX: Final = 500
EVENT_STREAMS_OF_LEDGER_MAX: Final = 200
# Requests that wait for events, in all and of one ledger: half and a quarter of a worker's connections. Each takes some
# 20 KB.
WAITING_MAX: Final = 10_000
WAITING_OF_LEDGER_MAX: Final = 5_000
# Copies of the reference's script that a worker sends at once. Each holds a piece or two, 300 KB at most.
DOWNLOADS_MAX: Final = 32


class Streams:
    """
    Limits the answers in pieces that are being sent.

    Attributes:
        count: How many are being sent.
    """

    # The end of the refusal's text, which begins with "... has as many".
    refusal: ClassVar = "long answers under way as it may have: read those to the end, or retry later."

    def __init__(self) -> None:
        self.count = 0
        self._of_ledgers: Counter[int] = Counter()

    def enter(self, ledger_id: int) -> None:
        """
        Count one more answer.

        Raises:
            Problem: As many answers as allowed are under way.
        """
        most, most_of_ledger = self._bounds()
        if self.count >= most or self._of_ledgers[ledger_id] >= most_of_ledger:
            whose = "The server" if self.count >= most else "This ledger"
            raise Problem("overloaded", f"{whose} has as many {self.refusal}", retry_after=retry_after_seconds())
        self.count += 1
        self._of_ledgers[ledger_id] += 1

    def leave(self, ledger_id: int) -> None:
        """Count one answer less."""
        self.count -= 1
        self._of_ledgers[ledger_id] -= 1
        if not self._of_ledgers[ledger_id]:
            del self._of_ledgers[ledger_id]

    def _bounds(self) -> tuple[int, int]:
        return STREAMS_MAX, STREAMS_OF_LEDGER_MAX


class EventStreams(Streams):
    """Limits the streams of events that are being sent."""

    refusal = "streams of events under way as it may have: share one, or retry later."

    def _bounds(self) -> tuple[int, int]:
        return EVENT_STREAMS_MAX, EVENT_STREAMS_OF_LEDGER_MAX


class Waiting(Streams):
    """Limits the requests that wait for events."""

    refusal = "requests waiting for events as it may have: ask without `wait`, or retry later."

    def _bounds(self) -> tuple[int, int]:
        return WAITING_MAX, WAITING_OF_LEDGER_MAX


class Downloads(Streams):
    """Limits the copies of the reference's script that are being sent."""

    refusal = "copies of this script under way as it may have: retry later."

    def _bounds(self) -> tuple[int, int]:
        return DOWNLOADS_MAX, DOWNLOADS_MAX
