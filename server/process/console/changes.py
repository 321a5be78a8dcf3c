"""Computes how metrics have changed between two totals."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from server.process.totals import Labels, Totals

# Decimal places of rates and gauges.
DIGITS: Final = 1

Cells = Counter[float | None]
Keep = Callable[[Labels], bool]


def _all(_: Labels) -> bool:
    return True


class Changes:
    """The difference between the last two totals."""

    def __init__(self) -> None:
        self._before: Totals | None = None
        self._after = Totals()
        self._seconds = 1.0

    def begin(self, totals: Totals, seconds: float) -> bool:
        """Take the next totals, *seconds* after the previous ones; return whether there were previous ones."""
        had_one = self._before is not None
        self._before = self._after if had_one else totals
        self._after, self._seconds = totals, max(seconds, 0.001)
        return had_one

    def sums(self, name: str, label: int | None, keep: Keep = _all) -> dict[str, float]:
        """
        Return the rate per second of a counter, or of the observations of a histogram.

        Args:
            label: Position of the label to group by; None makes one sum of all series.

            keep: Returns whether a series with these labels counts.

        Returns:
            The rates that are not zero, by the value of the label.
        """
        found: Counter[str] = Counter()
        for labels, cells in self._grown(name, keep):
            is_histogram = len(cells) > 1
            number = sum(count for bound, count in cells.items() if bound is not None) if is_histogram else cells[None]
            found["" if label is None else labels[label]] += number
        return {text: round(number / self._seconds, DIGITS) for text, number in found.items() if number > 0}

    def histogram(self, name: str, keep: Keep = _all) -> Cells:
        """Return the new observations of a histogram by upper bound; their sum is under None."""
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
                # A total can be smaller than before, because a process that crashed did not report everything. Count
                # that as no change.
                grown = {bound: max(0.0, number - old.get(bound, 0.0)) for bound, number in cells.items()}
                if any(grown.values()):
                    yield labels, Counter(grown)


def quantile(cells: Cells, share: float) -> float | None:
    """
    Return the value below which *share* of a histogram's observations are, or None if it has none.

    The bucket is exact; within it, observations are assumed to be spread evenly. Above the last finite bound the result
    is that bound.
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
