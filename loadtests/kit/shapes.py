"""How many users there are at an instant of a run, and when a run is over."""

from typing import NamedTuple

# Of the users, before and after a spike; and of the run, before it starts and while it lasts.
SPIKE_BASE = 0.2
SPIKE_BEGINS, SPIKE_ENDS = 0.4, 0.6
# Of a soak, the part in which its users come.
SOAK_RAMP = 0.1
# Steps of a search for the knee: users double with each.
KNEE_STEPS = 8
# More answers a second than the best step so far by less than this: the knee has been passed.
KNEE_GAIN_MIN = 0.1
# Seconds of a step of which the first answers are not counted: users are still coming, and workers report every 3 s.
KNEE_SETTLE_SECONDS = 3.0


def users_at(shape: str, users: int, seconds: float, elapsed: float) -> int | None:
    """
    Return how many users there are after *elapsed* of *seconds*; None when the run is over.

    Args:
        shape: `ramp`, `spike` or `soak`.

        users: The most there are.
    """
    if elapsed >= seconds:
        return None
    share = elapsed / seconds
    if shape == "ramp":
        return max(1, round(users * share))
    if shape == "spike":
        return users if SPIKE_BEGINS <= share < SPIKE_ENDS else max(1, round(users * SPIKE_BASE))
    return max(1, round(users * min(1.0, share / SOAK_RAMP)))


class Step(NamedTuple):
    """What so many users came to."""

    users: int
    rate: float
    p95_ms: float


class KneeSearch:
    """
    Doubles the users until they bring no more answers.

    Args:
        users_max: The most users to try.

        seconds: Of the whole search at most; a step gets an equal part of it.
    """

    def __init__(self, users_max: int, seconds: float) -> None:
        self._users_max = users_max
        self.step_seconds = max(2 * KNEE_SETTLE_SECONDS, seconds / KNEE_STEPS)
        self.users = 1
        self.steps: list[Step] = []

    def step_is_over(self, rate: float, p95_ms: float) -> bool:
        """Note what the present users came to and go to the next step; tell whether the search is over."""
        best = self.knee
        self.steps.append(Step(self.users, rate, p95_ms))
        if best is not None and rate < best.rate * (1 + KNEE_GAIN_MIN):
            return True
        if self.users >= self._users_max or len(self.steps) >= KNEE_STEPS:
            return True
        self.users = min(self._users_max, 2 * self.users)
        return False

    @property
    def knee(self) -> Step | None:
        """The step from which more users brought next to nothing."""
        best: Step | None = None
        for step in self.steps:
            if best is None or step.rate >= best.rate * (1 + KNEE_GAIN_MIN):
                best = step
        return best
