"""What a run came to."""

from array import array
from collections import Counter
from typing import Any, NamedTuple

# Seconds at the start of a run in which its queues fill: what is answered then says little about what comes after.
SETTLING_SECONDS = 1.0

# What became of a request, as noted by its number.
UNSENT, ANSWERED, REFUSED, UNKNOWN = range(4)


class Summary(NamedTuple):
    """
    The figures of a run. Latencies are in milliseconds, from the instant a request was due.

    `good` counts what was answered 2xx in time, `early` those among them that were answered while the run had not
    settled, `drained` those that were answered when nothing was sent any more, `late` what was answered 2xx when
    its caller had lost patience, `refused` 429 and 503 that say that nothing was done, `failed` all other answers,
    `broken` connections that ended instead, `gave_up` what found no free connection in time and was never sent.
    `lag_p99` is by how much the generator itself sent late when a connection was free: a run with much of it says
    more about the generator than about the server.
    """

    seconds: float
    due: int
    good: int
    early: int
    drained: int
    late: int
    refused: int
    failed: int
    broken: int
    gave_up: int
    p50: float
    p95: float
    p99: float
    p999: float
    refused_p99: float
    lag_p99: float

    @property
    def offered_rate(self) -> float:
        """Requests that were due a second."""
        return self.due / self.seconds

    @property
    def failing(self) -> float:
        """Share of requests that had no good answer."""
        return (self.late + self.refused + self.failed + self.broken + self.gave_up) / max(self.due, 1)

    @property
    def goodput(self) -> float:
        """Good answers a second while requests were sent and, in a run that is long enough, since it had settled."""
        during = self.good - self.drained
        if self.seconds <= 2 * SETTLING_SECONDS:
            return during / self.seconds
        return (during - self.early) / (self.seconds - SETTLING_SECONDS)

    def figures(self) -> dict[str, Any]:
        """Return all of them by name, as reports keep them."""
        return {**self._asdict(), "offered_rate": self.offered_rate, "goodput": self.goodput}


class Results:
    """
    Counts of a run while it lasts.

    Args:
        count: Requests that can be noted by number; 0 where nobody asks.
    """

    def __init__(self, count: int) -> None:
        self.fates = bytearray(count)
        self.due = 0
        self.good = 0
        self.early = 0
        self.drained = 0
        self.late = 0
        self.refused = 0
        self.failed = 0
        self.broken = 0
        self.gave_up = 0
        self.retry_after: Counter[int] = Counter()
        self.statuses: Counter[int] = Counter()
        # Good answers by whole second since the start, of when they came.
        self.good_by_second: Counter[int] = Counter()
        self.latencies = array("d")
        self.refusal_latencies = array("d")
        self.lags = array("d")

    def note(self, number: int, fate: int) -> None:
        """Note what became of a request."""
        if number < len(self.fates):
            self.fates[number] = fate

    def summary(self, seconds: float) -> Summary:
        """Return the figures."""
        latencies = sorted(self.latencies)
        return Summary(
            seconds,
            self.due,
            self.good,
            self.early,
            self.drained,
            self.late,
            self.refused,
            self.failed,
            self.broken,
            self.gave_up,
            p50=_milliseconds(latencies, 0.5),
            p95=_milliseconds(latencies, 0.95),
            p99=_milliseconds(latencies, 0.99),
            p999=_milliseconds(latencies, 0.999),
            refused_p99=_milliseconds(sorted(self.refusal_latencies), 0.99),
            lag_p99=_milliseconds(sorted(self.lags), 0.99),
        )


def _milliseconds(ordered: list[float], share: float) -> float:
    return round(1e3 * quantile(ordered, share), 2)


def quantile(ordered: list[float], share: float) -> float:
    """Return the value that *share* of the ordered values do not exceed; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
