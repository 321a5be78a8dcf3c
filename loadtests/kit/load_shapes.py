"""The shapes, as locust asks for them."""

import json
import time
from pathlib import Path

from locust import LoadTestShape

from loadtests.kit.shapes import KNEE_SETTLE_SECONDS, KneeSearch, users_at
from loadtests.kit.users import PLAN

# Users that come or go in a second: all of them, as good as at once.
SPAWN_RATE = 100.0


class Curve(LoadTestShape):
    """A number of users that is fixed for every instant."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now."""
        users = users_at(PLAN.shape, PLAN.users, PLAN.seconds, self.get_run_time())
        return None if users is None else (users, SPAWN_RATE)


class Knee(LoadTestShape):
    """Twice the users step by step; writes down the steps and which one is the knee."""

    def __init__(self) -> None:
        super().__init__()
        self._search = KneeSearch(PLAN.users, PLAN.seconds)
        self._began = time.monotonic()
        self._counted: tuple[float, int] | None = None

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users of this step, or None when the knee has been found."""
        now = time.monotonic()
        if self.runner is None or self.get_current_user_count() == 0:
            self._began = now
            return self._search.users, SPAWN_RATE
        total = self.runner.stats.total
        if self._counted is None and now - self._began >= KNEE_SETTLE_SECONDS:
            self._counted = now, total.num_requests
        if now - self._began >= self._search.step_seconds and self._counted is not None:
            since, count = self._counted
            rate = (total.num_requests - count) / (now - since)
            p95 = total.get_current_response_time_percentile(0.95) or 0.0
            over = self._search.step_is_over(rate, p95)
            self._write()
            if over:
                return None
            self._began, self._counted = now, None
        return self._search.users, SPAWN_RATE

    def _write(self) -> None:
        knee = self._search.knee
        found = {"knee": knee and knee._asdict(), "steps": [step._asdict() for step in self._search.steps]}
        (Path(PLAN.folder) / "knee.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
