"""The scenarios by name: what one is when nothing else is asked for, and what must come of it."""

from collections.abc import Mapping
from typing import NamedTuple

from loadtests.kit.plan import Limit

# Requests of one user a second.
PACE = 10.0
# The key that a flood is sent with, and how many times its limit that is.
FLOOD_LIMIT = Limit(quota=40, window=1, burst=60)
FLOOD = 10
PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
# What each figure says that a run is held against.
MEANINGS = {
    "lies": "promises that were broken, by the history's checks and look-ups",
    "unknown": "payments whose outcome was never learned",
    "unjudged": "checks that had nothing to judge; run longer or with more users",
    "cut_short": "users that were stopped because their history was full",
    "exceptions": "errors in users, or answers that they could not make sense of",
    "error_rate": "share of requests that failed, refusals that were asked for apart",
    **{name: f"{share * 100:g} of 100 answers came within so many milliseconds" for name, share in PERCENTILES.items()},
    "replays_equal": "share of repeated requests with one and the same answer",
    "one_first": "share of storms in which exactly one answer was the first",
    "above_limit": "requests admitted above burst + rate x time",
    "admitted_share": "admitted, of what the rate allows",
    "offered_times": "sent, of what the rate allows; a key with a lower limit, or more users, lift it",
    "retry_after_true": "share of waits for Retry-After that were long enough",
    "drift": "p95 of the last third, of that of the first third",
}
# Of these at least the bar is due, of all others at most.
AT_LEAST = {"replays_equal", "one_first", "admitted_share", "offered_times", "retry_after_true"}
STRICT = {"lies": 0.0, "unknown": 0.0, "unjudged": 0.0, "cut_short": 0.0, "exceptions": 0.0}
# Generous: a laptop that runs the users, the service and its databases must pass; a bar that means something to you is
# set with --bar.
CALM = {"error_rate": 0.0, "p50_ms": 250.0, "p95_ms": 1_000.0, "p99_ms": 2_500.0}
REPLAYS = {"replays_equal": 1.0}
# While everybody asks for more than the limit, nearly all that it allows must be admitted.
LIMITED = {"above_limit": 1.0, "admitted_share": 0.9, "offered_times": 2.0, "retry_after_true": 1.0}
# By how much the 95th percentile of the last third of a soak may exceed that of the first.
DRIFT_MAX = 1.5


class Scenario(NamedTuple):
    """A kind of traffic, the checks that it must have given work to, the bars of its own, and its usual size."""

    summary: str
    must_judge: str
    bars: Mapping[str, float] = {}
    users: int = 20
    accounts: int = 200
    pace: float = PACE


SCENARIOS = {
    "reads": Scenario(
        "accounts are read, the busiest most (Zipf); a payment now and then keeps them moving", "C1 C3 C5 C6"
    ),
    "payments": Scenario(
        "payments; of 5 in 100 the answer is lost and asked for again under the same key, 2 in 100 are refused",
        "C1 C2 C3 C4 C5 K",
        REPLAYS,
    ),
    "retry_storm": Scenario(
        "every payment is sent three times at once", "C1 C2 C3 C4", {**REPLAYS, "one_first": 1.0}, 15, 100, pace=4.0
    ),
    "hot_account": Scenario("a tenth of all payments are on one account", "C1 C2 C3"),
    "flood": Scenario(f"{FLOOD} times what the key's limit allows", "C1 C2 C3", LIMITED, accounts=20),
    "mixed": Scenario(
        "four payments to one read, lost answers, refusals and keys used twice by mistake among them",
        "C1 C2 C3 C4 C5 C6 C7",
        REPLAYS,
    ),
    "checkout": Scenario(
        "payments are held, captured in parts or voided, and given back in parts; some expire, some are too much",
        "C1 C2 C3 C4 H1 H2 H3",
        REPLAYS,
        pace=2.0,
    ),
    "bulk": Scenario(
        "twenty transfers a request, each for itself or all or none; some are sent again",
        "C1 C2 C3 C4",
        REPLAYS,
        users=10,
        pace=2.0,
    ),
}
SHAPES = {
    "steady": "all users all the time",
    "ramp": "from one user to all of them",
    "spike": "a fifth of the users, then all of them, then a fifth again",
    "soak": "all users for long; latency must not rise",
    "knee": "twice the users step by step, without pauses, until more of them bring no more answers",
}


class Finding(NamedTuple):
    """A figure that was measured (None: nothing was), and its bar."""

    name: str
    bar: float
    figure: float | None

    @property
    def met(self) -> bool:
        """Whether the figure will do; what was not measured does not."""
        if self.figure is None:
            return False
        return self.figure >= self.bar if self.name in AT_LEAST else self.figure <= self.bar

    def __str__(self) -> str:
        figure = "not measured" if self.figure is None else f"{self.figure:,.6g}"
        way = ">=" if self.name in AT_LEAST else "<="
        return f"{self.name} is {figure}, bar {way} {self.bar:,.6g}: {MEANINGS[self.name]}"


def judge(scenario: str, shape: str, asked: Mapping[str, float], figures: Mapping[str, float]) -> list[Finding]:
    """
    Hold the figures of a run against its bars.

    `asked`: bars to use in place of the usual ones; whoever looks for the knee has none on latency otherwise.
    """
    # The knee is found by going past it: there latencies rise and requests are refused.
    of_shape = {} if shape == "knee" else {**CALM, "drift": DRIFT_MAX} if shape == "soak" else CALM
    bars = {**STRICT, **SCENARIOS[scenario].bars, **of_shape}
    bars |= {name: bar for name, bar in asked.items() if name in bars or name in CALM}
    return [Finding(name, bar, figures.get(name)) for name, bar in bars.items()]
