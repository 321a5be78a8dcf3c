"""The scenarios by name: what their users do by default, and the objectives that they must meet."""

from collections.abc import Mapping
from typing import NamedTuple

from loadtests.kit.plan import Limit
from loadtests.payers import Act, Payer

# The limit of the key that sends a flood, and the rate of the flood as a multiple of that limit.
FLOOD_LIMIT = Limit(quota=40, window=1, burst=60)
FLOOD = 10
PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


class Objective(NamedTuple):
    """What a figure of a run means, and its bar: an upper bound, or a lower one if `at_least`."""

    meaning: str
    bar: float
    at_least: bool = False


# Bars on latency are generous, because a laptop that runs the users, the service and its databases must pass. Set your
# own with --bar.
OBJECTIVES = {
    "lies": Objective("promises that were broken, by the history's checks and look-ups", 0),
    "unknown": Objective("payments whose outcome was never learned", 0),
    "unjudged": Objective("checks that had nothing to judge; run longer or with more users", 0),
    "cut_short": Objective("users that were stopped because their history was full", 0),
    "exceptions": Objective("errors in users, or answers that they could not make sense of", 0),
    "error_rate": Objective("share of requests that failed, refusals that were asked for apart", 0),
    "p50_ms": Objective("50 of 100 answers came within so many milliseconds", 250),
    "p95_ms": Objective("95 of 100 answers came within so many milliseconds", 1_000),
    "p99_ms": Objective("99 of 100 answers came within so many milliseconds", 2_500),
    "above_limit": Objective("requests admitted above burst + rate x time", 1),
    "admitted_share": Objective("admitted, of what the rate allows", 0.9, at_least=True),
    "offered_times": Objective(
        "sent, of what the rate allows; a key with a lower limit, or more users, lift it", 2, at_least=True
    ),
    "retry_after_true": Objective("share of waits for Retry-After that were as long as needed", 1, at_least=True),
    "drift": Objective("p95 of the last third, of that of the first third", 1.5),
}
# Objectives of every run, and of every shape but the knee: past the knee latencies rise and requests are refused.
STRICT = ("lies", "unknown", "unjudged", "cut_short", "exceptions")
CALM = ("error_rate", *PERCENTILES)


class Scenario(NamedTuple):
    """
    A kind of traffic.

    `acts`: what its users do, with weights. `must_judge`: the checks that must have something to judge. `objectives`:
    its additional ones. The other fields are its default size.
    """

    summary: str
    acts: Mapping[Act, int]
    must_judge: str
    objectives: tuple[str, ...] = ()
    users: int = 20
    accounts: int = 200
    pace: float = 10.0


async def flood(payer: Payer) -> None:
    """Send a payment once, whatever the answer is."""
    await payer.transfer(*payer.payment(payer.pair()), expected=(429,))


# While users ask for more than the limit, nearly all that it allows must be admitted.
LIMITED = ("above_limit", "admitted_share", "offered_times", "retry_after_true")
SCENARIOS = {
    "reads": Scenario(
        "accounts are read, the busiest most (Zipf); a payment now and then keeps them moving",
        {Payer.read: 9, Payer.pay_and_read: 1},
        "C1 C3 C5 C6",
    ),
    "payments": Scenario(
        "payments; of 5 in 100 the answer is lost and asked for again under the same key, 2 in 100 are refused",
        {Payer.pay: 98, Payer.overdraw: 2},
        "C1 C2 C3 C4 C5 K",
    ),
    "retry_storm": Scenario(
        "every payment is sent three times at once", {Payer.storm: 1}, "C1 C2 C3 C4", users=15, accounts=100, pace=4.0
    ),
    "hot_account": Scenario("a tenth of all payments are on one account", {Payer.pay_hot: 1, Payer.pay: 9}, "C1 C2 C3"),
    "flood": Scenario(f"{FLOOD} times what the key's limit allows", {flood: 1}, "C1 C2 C3", LIMITED, accounts=20),
    "mixed": Scenario(
        "four payments to one read, lost answers, refusals and keys used twice by mistake among them",
        {Payer.pay: 63, Payer.pay_hot: 8, Payer.read: 20, Payer.pay_and_read: 3, Payer.overdraw: 1, Payer.confuse: 5},
        "C1 C2 C3 C4 C5 C6 C7",
    ),
    "checkout": Scenario(
        "payments are held, captured in parts or voided, and given back in parts; some expire, some are too much",
        {Payer.checkout: 8, Payer.overcapture: 1, Payer.let_expire: 1},
        "C1 C2 C3 C4 H1 H2 H3",
        pace=2.0,
    ),
    "bulk": Scenario(
        "twenty transfers a request, each for itself or all or none; some are sent again",
        {Payer.bulk: 1},
        "C1 C2 C3 C4",
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
    """A measured figure (None if nothing was measured) and its bar."""

    name: str
    bar: float
    figure: float | None

    @property
    def met(self) -> bool:
        """Whether the figure meets its bar; a figure that was not measured does not."""
        if self.figure is None:
            return False
        return self.figure >= self.bar if OBJECTIVES[self.name].at_least else self.figure <= self.bar

    def __str__(self) -> str:
        figure = "not measured" if self.figure is None else f"{self.figure:,.6g}"
        meaning, _, at_least = OBJECTIVES[self.name]
        return f"{self.name} is {figure}, bar {'>=' if at_least else '<='} {self.bar:,.6g}: {meaning}"


def judge(scenario: str, shape: str, asked: Mapping[str, float], figures: Mapping[str, float]) -> list[Finding]:
    """Compare the figures of a run with its bars, or with those in *asked*."""
    calm = [name for name in CALM if shape != "knee" or name in asked]
    drift = ["drift"] if shape == "soak" else []
    names = [*STRICT, *SCENARIOS[scenario].objectives, *calm, *drift]
    return [Finding(name, asked.get(name, OBJECTIVES[name].bar), figures.get(name)) for name in names]
