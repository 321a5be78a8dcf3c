"""Counts the most frequent of very many things, in bounded memory."""

from collections.abc import Hashable
from heapq import nlargest
from operator import itemgetter
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

# Counters for each one that is kept when room is made. Making room costs 130 us, once for this many new things.
ROOM_FACTOR: Final = 10


class Top(Generic[T]):
    """
    Counts with a bounded number of counters, after Space-Saving: Metwally, Agrawal, El Abbadi, "Efficient computation
    of frequent and top-k elements in data streams" (2005).

    When there is no room left, the *size* largest counts are kept, and a new thing begins with the largest count that
    was dropped, because it may have had as much before. That count rises only as fast as *size* + 1 others do. So
    everything that makes up more than 1/*size* of all is among the things counted, and a count may be too high by that
    much, never too low. The paper replaces one thing at a time, which means finding the smallest each time: 4 us.

    Args:
        size: How many things are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._room = ROOM_FACTOR * size
        self._floor = 0
        self._counts: dict[T, int] = {}

    def add(self, thing: T, number: int = 1) -> None:
        """Count *thing*."""
        counts = self._counts
        count = counts.get(thing)
        if count is None:
            if len(counts) >= self._room:
                counts = self._make_room()
            count = self._floor
        counts[thing] = count + number

    def take(self, number: int) -> list[tuple[T, int]]:
        """Return the most frequent things with their counts, and start again from zero."""
        counts, self._counts, self._floor = self._counts, {}, 0
        return nlargest(number, counts.items(), key=itemgetter(1))

    def _make_room(self) -> dict[T, int]:
        *kept, (_, self._floor) = nlargest(self._size + 1, self._counts.items(), key=itemgetter(1))
        self._counts = dict(kept)
        return self._counts
