"""Remembers limits that have no token left, so that Redis is not asked again before they have one."""

import time
from typing import Final, Generic, TypeVar

from server.gate.limits import LOCAL_BUCKETS_MAX, Taken

Name = TypeVar("Name")

# Microseconds for which a worker remembers, without asking again, that a limit is used up. In a flood the worker then
# asks ten times a second, so it soon notices that Redis has lost its buckets or that its clock was set.
REMEMBERED_MAX: Final = 100_000


def now() -> int:
    """Return microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000


class LimitMemory(Generic[Name]):
    """
    Remembers, by name, which limits have no token left and for how long.

    This is exact: while a limit is remembered here, Redis could only give the same answer, because a bucket does not
    fill sooner when others take from it.
    """

    def __init__(self) -> None:
        # Until when the limit is remembered, when it has a token again (both in microseconds of the monotonic clock),
        # and the position of the bucket that fills last.
        self._until: dict[Name, tuple[int, int, int]] = {}

    def taken(self, name: Name) -> Taken | None:
        """Return the result of an attempt to take one token if it is known without asking; otherwise None."""
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
            asked: When Redis was asked, in microseconds of the monotonic clock.

            wait: Microseconds until there is a token, as Redis has just answered.

            waits_for: Position of the bucket with the longest wait.
        """
        self._until.pop(name, None)
        if len(self._until) >= LOCAL_BUCKETS_MAX:
            del self._until[next(iter(self._until))]
        # The memory starts at the question, so that it ends before the wait does. The wait that callers are told
        # starts at the answer, so that no caller comes back too early.
        self._until[name] = (asked + min(wait, REMEMBERED_MAX), now() + wait, waits_for)
