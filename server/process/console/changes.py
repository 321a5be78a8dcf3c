"""What has happened between two accounts of all that was counted."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from server.process.totals import Labels, Totals

# Digits of rates.
DIGITS: Final = 1

Cells = Counter[float | None]
Keep = Callable[[Labels], bool]


def _all(_: Labels) -> bool:
    return True


class Changes:
    """The difference between the last two accounts."""

    def __init__(self) -> None:
        self._before: Totals | None = None
        self._after = Totals()
        self._seconds = 1.0

    def begin(self, totals: Totals, seconds: float) -> bool:
        """Take the next account, *seconds* after the one before; return whether there was one before."""
        had_one = self._before is not None
        self._before = self._after if had_one else totals
        self._after, self._seconds = totals, max(seconds, 0.001)
        return had_one

    def sums(self, name: str, label: int | None, keep: Keep = _all) -> dict[str, float]:
        """
        Return how much a counter, or the number of a histogram's values, has grown each second.

        Args:
            label: Position of the label by which the sums are told apart; without one there is one sum.

            keep: Says which series count.

        Returns:
            The sums that are not zero.
        """
        found: Counter[str] = Counter()
        for labels, cells in self._grown(name, keep):
            is_histogram = len(cells) > 1
            number = sum(count for bound, count in cells.items() if bound is not None) if is_histogram else cells[None]
            found["" if label is None else labels[label]] += number
        return {text: round(number / self._seconds, DIGITS) for text, number in found.items() if number > 0}

    def histogram(self, name: str, keep: Keep = _all) -> Cells:
        """Return the values that a histogram has got, by upper bound; None is their sum."""
        found: Cells = Counter()
        for _, cells in self._grown(name, keep):
            found.update(cells)
        return found

    def now(self, name: str) -> dict[str, float]:
        """Return the values of a gauge, by their labels."""
        series: Mapping[Labels, Mapping[float | None, float]] = self._after.series.get(name, {})
        return {" ".join(labels): round(cells[None], DIGITS) for labels, cells in series.items()}

    def _grown(self, name: str, keep: Keep) -> Iterator[tuple[Labels, Cells]]:
        before = {} if self._before is None else self._before.series.get(name, {})
        for labels, cells in self._after.series.get(name, {}).items():
            if keep(labels):
                old = before.get(labels, {})
                # A process that crashed takes along what it had not reported: nothing is ever taken back.
                grown = {bound: max(0.0, number - old.get(bound, 0.0)) for bound, number in cells.items()}
                if any(grown.values()):
                    yield labels, Counter(grown)


def quantile(cells: Cells, share: float) -> float | None:
    """
    Return the value below which *share* of a histogram's values lie, None where it has none.

    It is exact to a bucket; within one, values are taken to be spread evenly. Above the last bound it is that bound.
    """
    bounds = sorted(bound for bound in cells if bound is not None)
    wanted = share * sum(cells[bound] for bound in bounds)
    if wanted <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound in bounds:
        number = cells[bound]
        if below + number >= wanted:
            return lower if bound == math.inf else lower + (bound - lower) * (wanted - below) / number
        below, lower = below + number, bound
    return lower
