"""What workers have counted: each as it reported, and all of them added up."""

import math
from collections import defaultdict

from server.process.channel import Counted, HotAccount
from server.telemetry.metrics import Metric

Labels = tuple[str, ...]
# By name and labels of a metric: one number, or the counts of a histogram's buckets and then the sum.
Values = dict[tuple[str, Labels], tuple[float, ...]]


class Counts:
    """
    The numbers of one worker, as it last reported them.

    Attributes:
        metrics: What there is, by name, as the worker describes it: its release may be newer than that of this process.

        hot_accounts: The accounts with most transfers in the last few seconds.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.values: Values = {}
        self.hot_accounts: tuple[HotAccount, ...] = ()

    def update(self, report: Counted) -> None:
        """Take note of what has changed."""
        self.metrics.update(report.metrics)
        self.values.update({(name, labels): numbers for name, labels, numbers in report.values})


class Totals:
    """
    The numbers of several workers, added up.

    Attributes:
        series: By name and labels: of a histogram what fell under which bound, and its sum under None; of the others
            the number under None.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.series: dict[str, dict[Labels, dict[float | None, float]]] = {}

    def add(self, counts: Counts, *, has_ended: bool = False) -> None:
        """Add the numbers of a worker; of one that has ended, what it said of the moment is left out."""
        for (name, labels), numbers in counts.values.items():
            metric = counts.metrics[name]
            if has_ended and metric.kind == "gauge":
                continue
            self.metrics.setdefault(name, metric)
            cells = self.series.setdefault(name, {}).setdefault(labels, defaultdict(float))
            # By bound, not by place: workers of two releases may have different ones.
            for bound, number in zip((*metric.bounds, math.inf, None)[-len(numbers) :], numbers, strict=True):
                cells[bound] += number
