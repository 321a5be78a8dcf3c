"""The metrics of child processes: what each last reported, and the sums of all."""

import math
from collections import defaultdict

from server.process.channel import Counted, Hot
from server.telemetry.metrics import Metric

Labels = tuple[str, ...]
# By the name and labels of a metric: one number, or the counts of a histogram's buckets and then the sum.
Values = dict[tuple[str, Labels], tuple[float, ...]]


class Counts:
    """
    The metrics that one child process last reported.

    Attributes:
        metrics: Descriptions by name. They come from the child, which may be a newer release than this process.

        hot: The busiest accounts and API keys of the last few seconds.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.values: Values = {}
        self.hot = Hot()

    def update(self, report: Counted) -> None:
        """Apply a report; drop values that it has no numbers for."""
        for name, metric in report.metrics.items():
            if self.metrics.get(name, metric).bounds != metric.bounds:
                # The values held so far have the old number of buckets; all values come again with the new bounds.
                self.values = {key: numbers for key, numbers in self.values.items() if key[0] != name}
        self.metrics.update(report.metrics)
        for name, labels, numbers in report.values:
            if numbers:
                self.values[name, labels] = numbers
            else:
                self.values.pop((name, labels), None)


class Totals:
    """
    The metrics of several child processes, added up.

    Attributes:
        series: By name and labels, then by cell: the upper bound of a bucket, or None for a sum or a single number.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.series: dict[str, dict[Labels, dict[float | None, float]]] = {}

    def add(self, counts: Counts, *, has_ended: bool = False) -> None:
        """Add the metrics of a child process, without its gauges if it has ended."""
        for (name, labels), numbers in counts.values.items():
            metric = counts.metrics[name]
            if has_ended and metric.kind == "gauge":
                continue
            self.metrics.setdefault(name, metric)
            cells = self.series.setdefault(name, {}).setdefault(labels, defaultdict(float))
            # Add by bound, not by position: processes of two releases may have different bounds.
            for bound, number in zip((*metric.bounds, math.inf, None)[-len(numbers) :], numbers, strict=True):
                cells[bound] += number

    def counts(self) -> Counts:
        """Return the sums as if one child process had reported them."""
        counts = Counts()
        for name, series in self.series.items():
            metric = self.metrics[name]
            found = {bound for cells in series.values() for bound in cells if bound is not None}
            bounds = tuple(sorted(found - {math.inf}))
            counts.metrics[name] = metric._replace(bounds=bounds)
            cells_of = (*bounds, math.inf, None) if metric.kind == "histogram" else (None,)
            for labels, cells in series.items():
                counts.values[name, labels] = tuple(cells.get(cell, 0.0) for cell in cells_of)
        return counts
