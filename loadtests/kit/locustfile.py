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
from locust import events
from locust.runners import WorkerRunner

from loadtests.kit import load_shapes
from loadtests.kit.plan import PROGRESS
from loadtests.kit.scenarios import USERS
from loadtests.kit.stats import figures, merged, percentile
from loadtests.kit.users import PLAN, Notes

# Seconds between two lines of progress.
PROGRESS_SECONDS = 1.0

# Locust chooses the tasks of all users with it.
random.seed(PLAN.seed)
ScenarioUser = USERS[PLAN.scenario]
if PLAN.shape != "steady":
    LoadShape = load_shapes.Knee if PLAN.shape == "knee" else load_shapes.Curve

atexit.register(Notes.close)
# Started from a shell's background, it would ignore what asks it to end and report.
signal.signal(signal.SIGINT, signal.default_int_handler)


@events.init.add_listener
def show_progress(environment: Any, **_: Any) -> None:
    """Print how far the run is, in the one process that knows it all."""
    if not isinstance(environment.runner, WorkerRunner):
        gevent.spawn(_progress, environment)


def _progress(environment: Any) -> None:
    began = None
    while True:
        gevent.sleep(PROGRESS_SECONDS)
        runner, total = environment.runner, environment.stats.total
        if runner.user_count == 0:
            began = None
            continue
        began = began or time.monotonic()
        apart = total.num_requests - sum(merged(environment.stats.entries).values())
        print(
            f"{PROGRESS}{PLAN.scenario}: {time.monotonic() - began:.0f} of {PLAN.seconds:.0f} s,"
            f" {runner.user_count} users, {total.current_rps:,.0f} requests/s,"
            f" p95 {percentile(merged(environment.stats.entries), 0.95):.0f} ms,"
            f" {total.num_failures} failed, {apart} limited or not listened for",
            flush=True,
        )


@events.quitting.add_listener
def write_figures(environment: Any, **_: Any) -> None:
    """Close the history; where the figures are known, write them for whoever judges the run."""
    # When it is interrupted, users are still at work here.
    if environment.runner.user_count:
        environment.runner.stop()
    Notes.close()
    if isinstance(environment.runner, WorkerRunner):
        return
    found = figures(environment.stats.entries, len(environment.runner.exceptions))
    (Path(PLAN.folder) / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    # Failures are judged by their share, not by locust.
    environment.process_exit_code = 0
