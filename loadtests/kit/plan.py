"""What one run is to be, made once and read by every process of it, and how many users it has at an instant."""

import itertools
from typing import NamedTuple

# Names of the environment: the plan, and the API key, which is never written to a file.
PLAN_VARIABLE = "TALLYSTICK_LOAD_PLAN"
KEY_VARIABLE = "LEDGER_LOAD_KEY"
# Shares of the run, and of the users that there are then; in between as many more as time has passed.
CURVES = {
    "steady": ((0.0, 1.0), (1.0, 1.0)),
    "ramp": ((0.0, 0.0), (1.0, 1.0)),
    "spike": ((0.0, 0.2), (0.4, 0.2), (0.4, 1.0), (0.6, 1.0), (0.6, 0.2), (1.0, 0.2)),
    "soak": ((0.0, 0.0), (0.1, 1.0), (1.0, 1.0)),
}
# Steps of a search for the knee: users double with each.
KNEE_STEPS = 8
# More answers a second than the best step so far by less than this: the knee has been passed.
KNEE_GAIN_MIN = 0.1
# Seconds of a step of which the first answers are not counted: users are still coming, and workers report every 3 s.
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

    `pace` is what one user starts a second; 0 is as fast as answers come. `run` begins all names that the run uses.
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
    """Return how many users of so many there are after *elapsed* of *seconds*; None when the run is over."""
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
    """Doubles the users until they bring no more answers, or their number or the time is reached."""

    def __init__(self, users_max: int, seconds: float) -> None:
        self._users_max = users_max
        self.step_seconds = max(2 * KNEE_SETTLE_SECONDS, seconds / KNEE_STEPS)
        self.users = 1
        self.steps: list[Step] = []
        # The step from which more users brought next to nothing.
        self.knee: Step | None = None

    def step_is_over(self, rate: float, p95_ms: float) -> bool:
        """Note what the present users came to and go to the next step; tell whether the search is over."""
        step = Step(self.users, rate, p95_ms)
        self.steps.append(step)
        if self.knee is not None and rate < self.knee.rate * (1 + KNEE_GAIN_MIN):
            return True
        self.knee = step
        self.users = min(self._users_max, 2 * self.users)
        return self.users == step.users or len(self.steps) == KNEE_STEPS
