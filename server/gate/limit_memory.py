"""Limits that have nothing left: until they have, asking again could only say the same."""

import time
from typing import Final, Generic, TypeVar

from server.gate.limits import LOCAL_BUCKETS_MAX, Taken

Name = TypeVar("Name")

# Microseconds for which a worker remembers that a limit is used up, without asking again: a flood then asks ten times a
# second, and so soon is it seen that Redis has lost its buckets or that its clock was set.
REMEMBERED_MAX: Final = 100_000


def now() -> int:
    """Return microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000


class LimitMemory(Generic[Name]):
    """
    The limits, by name, that are known to have no token left, and how long that lasts.

    This is exact: while a limit is remembered here, asking Redis could only give the same answer. A bucket does not
    fill sooner because others take from it.
    """

    def __init__(self) -> None:
        # Until when the limit is remembered, when it has a token again (both in microseconds of the monotonic clock),
        # and the position of the bucket that fills last.
        self._until: dict[Name, tuple[int, int, int]] = {}

    def taken(self, name: Name) -> Taken | None:
        """Return the result of an attempt to take one token; None where it is not known without asking."""
        if name not in self._until:
            return None
        remembered, until, waits_for = self._until[name]
        moment = now()
        if moment >= remembered:
            del self._until[name]
            return None
        return Taken(until - moment, 0, waits_for)

    def remember(self, name: Name, asked: int, wait: int, waits_for: int = 0) -> None:
        """
        Remember that there was no token.

        Args:
            asked: When that was asked, in microseconds of the monotonic clock.

            wait: Microseconds until there is one, as it was answered just now.

            waits_for: Position of the bucket that is waited for longest.
        """
        self._until.pop(name, None)
        if len(self._until) >= LOCAL_BUCKETS_MAX:
            del self._until[next(iter(self._until))]
        # Remembering starts at the question, so that it ends before the wait does. The wait that callers are given
        # starts at the answer, so that nobody comes too early.
        self._until[name] = (asked + min(wait, REMEMBERED_MAX), now() + wait, waits_for)
