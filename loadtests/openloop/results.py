"""What a run came to, in the one form that all reports keep."""

from array import array
from collections import Counter
from typing import Any, NamedTuple

from loadtests.client import BROKEN

# Seconds at the start of a run in which its queues fill: what is answered then says little about what comes after.
SETTLING_SECONDS = 1.0
# Milliseconds of the generator's own lateness (99 in 100) from which on a run says little about the server.
LAG_MAX_MS = 5.0
# What became of a request, as noted by its number.
UNSENT, ANSWERED, REFUSED, UNKNOWN = range(4)

# A run: what was measured and its figures, by name.
Run = dict[str, Any]
# Significant digits of a time that another process is told: a thousandth of it is below what two runs differ by.
DIGITS = 3
_TIMES = ("latencies", "refusal_latencies", "lags")
_COUNTS = ("due", "good", "early", "drained", "late", "refused", "failed", "broken", "gave_up")


class Summary(NamedTuple):
    """
    The figures of a run. Latencies are in milliseconds, from the instant a request was due.

    `good` counts what was answered 2xx in time, `early` those among them that were answered while the run had not
    settled, `drained` those that were answered when nothing was sent any more, `late` what was answered 2xx when
    its caller had lost patience, `refused` 429 and 503 that say that nothing was done, `failed` all other answers,
    `broken` connections that ended instead, `gave_up` what found no free connection in time and was never sent.
    `per_second` are good answers a second while requests were sent and since it had settled, `offered` requests due a
    second. `lag_p99` is by how much the generator itself sent late when a connection was free: a run with much of it
    says more about the generator than about the server.
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
    answered: int
    other: dict[str, int]
    offered: float
    per_second: float
    refused_per_second: float
    unsent_per_second: float
    p50: float
    p95: float
    p99: float
    p999: float
    refused_p99: float
    lag_p99: float
    late_generator: bool

    @property
    def failing(self) -> float:
        """Share of requests that had no good answer."""
        return (self.late + self.refused + self.failed + self.broken + self.gave_up) / max(self.due, 1)


class Results:
    """
    Counts of a run while it lasts.

    Args:
        count: Requests that can be noted by number; 0 where nobody asks.

        settling_seconds: In which answers do not count for the rate, where the run is more than twice as long.
    """

    def __init__(self, count: int = 0, settling_seconds: float = SETTLING_SECONDS) -> None:
        self.fates = bytearray(count)
        self.settling_seconds = settling_seconds
        self.seconds = 0.0
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
        # Answers by whole second since the start, of when they came, where requests are noted by number.
        self.answered_by_second: Counter[int] = Counter()
        self.latencies = array("d")
        self.refusal_latencies = array("d")
        self.lags = array("d")

    def note(self, number: int, fate: int, second: float) -> None:
        """Note what became of a request, and when since the start."""
        if number < len(self.fates):
            self.fates[number] = fate
        self.answered_by_second[int(second)] += fate == ANSWERED

    def dump(self) -> dict[str, Any]:
        """Return what another process adds to its own with `add`."""
        counts = {name: getattr(self, name) for name in (*_COUNTS, "seconds", "settling_seconds")}
        times = {name: Counter(f"{time:.{DIGITS}g}" for time in getattr(self, name)) for name in _TIMES}
        return {**counts, **times, "statuses": dict(self.statuses), "retry_after": dict(self.retry_after)}

    def add(self, dumped: dict[str, Any]) -> None:
        """Add the results of another generator of the same run."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + dumped[name])
        self.seconds = max(self.seconds, dumped["seconds"])
        self.settling_seconds = dumped["settling_seconds"]
        for name in _TIMES:
            for text, count in dumped[name].items():
                getattr(self, name).extend([float(text)] * count)
        for name in ("statuses", "retry_after"):
            getattr(self, name).update({int(word): count for word, count in dumped[name].items()})

    def summary(self) -> Summary:
        """Return the figures."""
        latencies = sorted(self.latencies)
        seconds = max(self.seconds, 1e-9)
        during, settling = self.good - self.drained, self.settling_seconds
        settled = (during - self.early) / (seconds - settling) if seconds > 2 * settling else during / seconds
        other = Counter({"broken" if status == BROKEN else str(status): n for status, n in self.statuses.items()})
        lag = _milliseconds(sorted(self.lags), 0.99)
        return Summary(
            seconds=self.seconds,
            **{name: getattr(self, name) for name in _COUNTS},
            answered=self.statuses.total() - self.statuses[BROKEN],
            other={name: count for name, count in other.items() if not name.startswith("2")},
            offered=self.due / seconds,
            per_second=settled,
            refused_per_second=self.refused / seconds,
            unsent_per_second=self.gave_up / seconds,
            p50=_milliseconds(latencies, 0.5),
            p95=_milliseconds(latencies, 0.95),
            p99=_milliseconds(latencies, 0.99),
            p999=_milliseconds(latencies, 0.999),
            refused_p99=_milliseconds(sorted(self.refusal_latencies), 0.99),
            lag_p99=lag,
            late_generator=lag > LAG_MAX_MS,
        )


def _milliseconds(ordered: list[float], share: float) -> float:
    return round(1e3 * quantile(ordered, share), 3)


def quantile(ordered: list[float], share: float) -> float:
    """Return the value that *share* of the ordered values do not exceed; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
