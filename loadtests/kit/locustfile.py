"""
What locust loads: the users of the scenario that the plan names, and a shape if it names one.

Started by `make load`, which prepares the ledger and judges the run.
"""

import atexit
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.runners import WorkerRunner

from loadtests.kit.shapes import KNEE_SETTLE_SECONDS, KneeSearch, users_at
from loadtests.kit.users import PLAN, ScenarioUser, close_history

# What locust looks for in this file; and a shape, below. A shape with `abstract` is none that it takes.
__all__ = ["ScenarioUser"]

# Users that come or go in a second under a shape: all of them, as good as at once.
SPAWN_RATE = 100.0

# Locust chooses the tasks of all users with it.
random.seed(PLAN.seed)

atexit.register(close_history)
# Started from a shell's background, it would ignore what asks it to end and report.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Curve(LoadTestShape):
    """A number of users that is fixed for every instant."""

    abstract = PLAN.shape in ("steady", "knee")

    def tick(self) -> tuple[int, float] | None:
        users = users_at(PLAN.shape, PLAN.users, PLAN.seconds, self.get_run_time())
        return None if users is None else (users, SPAWN_RATE)


class Knee(LoadTestShape):
    """Twice the users step by step."""

    abstract = PLAN.shape != "knee"
    search = KneeSearch(PLAN.users, PLAN.seconds)

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._counted: tuple[float, int] | None = None

    def tick(self) -> tuple[int, float] | None:
        now = time.monotonic()
        if self.runner is None or self.get_current_user_count() == 0:
            self._began = now
            return self.search.users, SPAWN_RATE
        total = self.runner.stats.total
        if self._counted is None and now - self._began >= KNEE_SETTLE_SECONDS:
            self._counted = now, total.num_requests
        if now - self._began >= self.search.step_seconds and self._counted is not None:
            since, count = self._counted
            rate = (total.num_requests - count) / (now - since)
            if self.search.step_is_over(rate, total.get_current_response_time_percentile(0.95) or 0.0):
                return None
            self._began, self._counted = now, None
        return self.search.users, SPAWN_RATE


@events.init.add_listener
def look_at_the_clock(**_: Any) -> None:
    """Let gevent see what time it is: a run begins now, not when the imports above did, which may take seconds."""
    gevent.get_hub().loop.update_now()


@events.quitting.add_listener
def write_figures(environment: Any, **_: Any) -> None:
    """Close the history; where the figures are known, write them for whoever judges the run."""
    # When it is interrupted, users are still at work here.
    if environment.runner.user_count:
        environment.runner.stop()
    close_history()
    if isinstance(environment.runner, WorkerRunner):
        return
    entries = environment.stats.entries.values()
    requests = sum(entry.num_requests for entry in entries)
    failures = sum(entry.num_failures for entry in entries)
    found = {
        "requests": requests,
        "failures": failures,
        "error_rate": failures / requests if requests else 1.0,
        "exceptions": len(environment.runner.exceptions),
    }
    if Knee.search.knee is not None:
        found |= {"knee": Knee.search.knee, "steps": Knee.search.steps}
    (Path(PLAN.folder) / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    # Failures are judged by their share, not by locust.
    environment.process_exit_code = 0
