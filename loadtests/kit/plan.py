"""The plan of one run, made once and read by each of its processes, and the number of users at an instant."""

import itertools
from typing import NamedTuple

# Environment variables: the plan, and the API key, which is never written to a file.
PLAN_VARIABLE = "TALLYSTICK_LOAD_PLAN"
KEY_VARIABLE = "LEDGER_LOAD_KEY"
# Shares of the run's time, each with the share of users at that point; in between, the number changes linearly.
CURVES = {
    "steady": ((0.0, 1.0), (1.0, 1.0)),
    "ramp": ((0.0, 0.0), (1.0, 1.0)),
    "spike": ((0.0, 0.2), (0.4, 0.2), (0.4, 1.0), (0.6, 1.0), (0.6, 0.2), (1.0, 0.2)),
    "soak": ((0.0, 0.0), (0.1, 1.0), (1.0, 1.0)),
}
# Steps of a search for the knee: users double with each step.
KNEE_STEPS = 8
# If answers a second exceed those of the best step so far by a smaller share than this, the knee has been passed.
KNEE_GAIN_MIN = 0.1
# Seconds of a step whose answers are not counted: users are still starting, and workers report every 3 s.
KNEE_SETTLE_SECONDS = 3.0


class Limit(NamedTuple):
    """The limit of an API key: *quota* requests every *window* seconds, and up to *burst* at once."""

    quota: int
    window: int
    burst: int

    @property
    def rate(self) -> float:
        return self.quota / self.window


class Plan(NamedTuple):
    """
    One run of one scenario.

    `pace` is how many acts a user starts a second; 0 is as fast as answers come. `run` is the prefix of the run's
    names.
    """

    scenario: str
    url: str
    run: str
    users: int
    pace: float
    seconds: float
    shape: str
    seed: int
    size: int
    folder: str

    @property
    def prefix(self) -> str:
        return f"load:{self.run}:"

    @property
    def world(self) -> str:
        return f"{self.prefix}world"

    @property
    def accounts(self) -> list[str]:
        return [f"{self.prefix}{number}" for number in range(self.size)]


def users_at(shape: str, users: int, seconds: float, elapsed: float) -> int | None:
    """Return how many of *users* there are after *elapsed* of *seconds*; None when the run is over."""
    if elapsed >= seconds:
        return None
    now = elapsed / seconds
    for (start, before), (end, after) in itertools.pairwise(CURVES[shape]):
        if start <= now < end:
            return max(1, round(users * (before + (after - before) * (now - start) / (end - start))))
    return users


class Step(NamedTuple):
    users: int
    rate: float
    p95_ms: float


class KneeSearch:
    """Doubles the users until answers no longer increase, or the users or the steps reach their limit."""

    def __init__(self, users_max: int, seconds: float) -> None:
        self._users_max = users_max
        self.step_seconds = max(2 * KNEE_SETTLE_SECONDS, seconds / KNEE_STEPS)
        self.users = 1
        self.steps: list[Step] = []
        # The last step with clearly more answers than the step before.
        self.knee: Step | None = None

    def step_is_over(self, rate: float, p95_ms: float) -> bool:
        """Record the figures of the current step and go to the next; return whether the search is over."""
        step = Step(self.users, rate, p95_ms)
        self.steps.append(step)
        if self.knee is not None and rate < self.knee.rate * (1 + KNEE_GAIN_MIN):
            return True
        self.knee = step
        self.users = min(self._users_max, 2 * self.users)
        return self.users == step.users or len(self.steps) == KNEE_STEPS
