"""What a run must come to, and which of it was missed."""

from collections.abc import Mapping
from typing import NamedTuple

from loadtests.kit.catalogue import ADMITTED_SHARE_MIN, CALM
from loadtests.kit.stats import PERCENTILES

# By how much the 95th percentile of the last third of a soak may exceed that of the first.
DRIFT_MAX = 1.5
# Of the limit, what a flood must have offered to say anything about it.
OFFERED_TIMES_MIN = 2.0


class Objective(NamedTuple):
    """A figure, its bar, whether the bar is the most or the least that will do, and what it stands for."""

    name: str
    bar: float
    at_most: bool
    meaning: str


class Finding(NamedTuple):
    """An objective, the figure that was measured (None: nothing was), and whether that will do."""

    objective: Objective
    figure: float | None
    met: bool

    def __str__(self) -> str:
        name, bar, at_most, meaning = self.objective
        figure = "not measured" if self.figure is None else f"{self.figure:,.6g}"
        return f"{name} is {figure}, bar {'<=' if at_most else '>='} {bar:,.6g}: {meaning}"


_ALWAYS = (
    Objective("lies", 0, at_most=True, meaning="promises that were broken, by the history's checks and look-ups"),
    Objective("unknown", 0, at_most=True, meaning="payments whose outcome was never learned"),
    Objective("unjudged", 0, at_most=True, meaning="checks that had nothing to judge; run longer or with more users"),
    Objective("cut_short", 0, at_most=True, meaning="users that were stopped because their history was full"),
    Objective("exceptions", 0, at_most=True, meaning="errors in users, or answers that they could not make sense of"),
)
_MEANINGS = {
    "error_rate": "share of requests that failed, refusals that were asked for apart",
    "p50_ms": "half of the answers came within so many milliseconds",
    "p95_ms": "95 of 100 answers came within so many milliseconds",
    "p99_ms": "99 of 100 answers came within so many milliseconds",
}
_REPLAYS = Objective(
    "replays_equal", 1, at_most=False, meaning="share of repeated requests with one and the same answer"
)
_OF_SCENARIO = {
    "payments": (_REPLAYS,),
    "mixed": (_REPLAYS,),
    "bulk": (_REPLAYS,),
    "retry_storm": (
        _REPLAYS,
        Objective("one_first", 1, at_most=False, meaning="share of storms in which exactly one answer was the first"),
    ),
    "flood": (
        Objective("above_limit", 1, at_most=True, meaning="requests admitted above burst + rate x time"),
        Objective("admitted_share", ADMITTED_SHARE_MIN, at_most=False, meaning="admitted, of what the rate allows"),
        Objective(
            "offered_times",
            OFFERED_TIMES_MIN,
            at_most=False,
            meaning="sent, of what the rate allows; a key with a lower limit, or more users, lift it",
        ),
        Objective("retry_after_true", 1, at_most=False, meaning="share of waits for Retry-After that were long enough"),
    ),
}
_DRIFT = Objective("drift", DRIFT_MAX, at_most=True, meaning="p95 of the last third, of that of the first third")


def objectives(scenario: str, shape: str, bars: Mapping[str, float]) -> list[Objective]:
    """
    Return what a run is held against.

    Args:
        bars: Bars to use in place of the usual ones.
    """
    found = [*_ALWAYS, *_OF_SCENARIO.get(scenario, ())]
    # Whoever looks for the knee goes past it: there latencies rise and requests are refused.
    usual = {} if shape == "knee" else {"error_rate": 0.0, **CALM}
    wanted = {**usual, **{name: bar for name, bar in bars.items() if name in _MEANINGS}}
    found += [Objective(name, bar, True, _MEANINGS[name]) for name, bar in wanted.items()]
    if shape == "soak":
        found.append(_DRIFT)
    return [objective._replace(bar=bars.get(objective.name, objective.bar)) for objective in found]


def names() -> list[str]:
    """Return the names of all objectives there are."""
    specific = [objective for of_scenario in _OF_SCENARIO.values() for objective in of_scenario]
    return sorted({objective.name for objective in (*_ALWAYS, *specific, _DRIFT)} | {"error_rate", *PERCENTILES})


def judge(wanted: list[Objective], figures: Mapping[str, float]) -> list[Finding]:
    """Hold the figures against the objectives; what was not measured is not met."""
    findings = []
    for objective in wanted:
        figure = figures.get(objective.name)
        met = figure is not None and (figure <= objective.bar if objective.at_most else figure >= objective.bar)
        findings.append(Finding(objective, figure, met))
    return findings
