"""Counts what happens during a run, and makes figures of it."""

from collections import Counter
from dataclasses import dataclass, field, fields

from loadtests.client import BROKEN
from loadtests.errors import NotRunError
from loadtests.figures import Column, Run, percent, quantile

# The possible outcomes of a request.
ANSWERED, REFUSED, UNKNOWN = range(3)
# Columns that are shown for each run of an overload curve.
CURVE = (
    Column("due a second", "offered"),
    Column("good a second", "per_second"),
    Column("of peak", "of_peak", percent),
    Column("p50 ms", "p50"),
    Column("p99 ms", "p99"),
    Column("of p99 unloaded", "of_unloaded_p99"),
    Column("refused a second", "refused_per_second"),
    Column("refusal p99 ms", "refused_p99"),
    Column("never sent a second", "unsent_per_second"),
    Column("generator's lag, p99 ms", "lag_p99"),
    Column("MiB", "memory_mib"),
)


@dataclass
class Results:
    """
    Holds the counts of a run; `fates` is by the numbers of requests. Times count from when a request was due.

    `good` are the 2xx answers in time, and `counted` those among them within the `window`: while requests were sent,
    and after the run had settled. `late` are the 2xx answers after their caller gave up, `refused` are 429 and 503,
    `failed` all other answers, `broken` the requests whose connection ended before an answer, `gave_up` those that
    found no free connection in time and were never sent. `lags` are the delays of the generator itself when a
    connection was free.
    """

    fates: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    window: float = 0.0
    due: int = 0
    good: int = 0
    counted: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    broken: int = 0
    gave_up: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refusal_latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def add(self, other: "Results") -> None:
        for name in (each.name for each in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                mine.update(theirs)
            elif isinstance(mine, float):
                setattr(self, name, max(mine, theirs))
            else:
                setattr(self, name, mine + theirs)

    def figures(self) -> Run:
        """
        Return the figures as all reports keep them; latencies are in milliseconds.

        `per_second` are good answers a second within the window. If `lag_p99`, the generator's own delay, is large, the
        run says little about the server.
        """
        seconds, latencies = max(self.seconds, 1e-9), sorted(self.latencies)
        bad = self.late + self.refused + self.failed + self.broken + self.gave_up
        return {
            **{each.name: getattr(self, each.name) for each in fields(self) if each.type in (int, float)},
            "answered": self.statuses.total() - self.statuses[BROKEN],
            "other": {str(status): count for status, count in self.statuses.items() if not 200 <= status < 300},
            "failing": bad / max(self.due, 1),
            "offered": self.due / seconds,
            "per_second": self.counted / max(self.window, 1e-9),
            "refused_per_second": self.refused / seconds,
            "unsent_per_second": self.gave_up / seconds,
            **{f"p{name}": _milliseconds(latencies, share) for name, share in _SHARES.items()},
            "refused_p99": _milliseconds(sorted(self.refusal_latencies), 0.99),
            "lag_p99": _milliseconds(sorted(self.lags), 0.99),
        }


def answered(figure: float) -> float:
    """
    Return a rate or a latency of good answers.

    Raises:
        NotRunError: It is 0, so there were none and nothing can be compared with it.
    """
    if not figure:
        raise NotRunError("no request was answered in time: is the server slow, or are --seconds too few?")
    return figure


_SHARES = {"50": 0.5, "95": 0.95, "99": 0.99, "999": 0.999}


def _milliseconds(ordered: list[float], share: float) -> float:
    return round(1e3 * quantile(ordered, share), 3)
