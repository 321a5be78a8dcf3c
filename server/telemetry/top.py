"""The most frequent of very many things, counted in little room."""

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Top(Generic[T]):
    """
    Counts with a bounded number of counters: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and
    top-k elements in data streams" (2005), Space-Saving.

    What makes up more than 1/*size* of all is among them; a count may be too high by that much, never too low.

    Args:
        size: Things counted at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: dict[T, int] = {}

    def add(self, thing: T, number: int = 1) -> None:
        """Count *thing*."""
        counts = self._counts
        if thing in counts:
            counts[thing] += number
        elif len(counts) < self._size:
            counts[thing] = number
        else:
            rarest = min(counts, key=counts.__getitem__)
            counts[thing] = counts.pop(rarest) + number

    def take(self, number: int) -> list[tuple[T, int]]:
        """Return the most frequent ones with their counts, and begin anew."""
        counts, self._counts = self._counts, {}
        return sorted(counts.items(), key=lambda item: -item[1])[:number]
