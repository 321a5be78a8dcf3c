"""
What locust loads: the users of the scenario that the plan names, and a shape if it names one.

Started by `make load`, which prepares the ledger and judges the run.
"""

import atexit
import json
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from locust import events
from locust.runners import WorkerRunner

from loadtests.figures import quantile
from loadtests.kit import load_shapes
from loadtests.kit.catalogue import PERCENTILES
from loadtests.kit.users import PLAN, Notes, ScenarioUser

# What locust looks for in this file; and a shape, below.
__all__ = ["ScenarioUser"]
# The end of the names that stand apart: `... (limited)`, `... (answer lost)`.
APART = ")"

# Seconds: whoever shows how far the run is reads it in the file of statistics.
locust.stats.CSV_STATS_FLUSH_INTERVAL_SEC = 1
# Locust chooses the tasks of all users with it.
random.seed(PLAN.seed)
if PLAN.shape != "steady":
    LoadShape = load_shapes.Knee if PLAN.shape == "knee" else load_shapes.Curve

atexit.register(Notes.close)
# Started from a shell's background, it would ignore what asks it to end and report.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
    Notes.close()
    if isinstance(environment.runner, WorkerRunner):
        return
    entries = environment.stats.entries.values()
    times: Counter[float] = Counter()
    for entry in entries:
        if not entry.name.endswith(APART):
            times.update(entry.response_times)
    ordered = sorted(times.elements())
    requests = sum(entry.num_requests for entry in entries)
    failures = sum(entry.num_failures for entry in entries)
    found = {
        "requests": requests,
        "failures": failures,
        "error_rate": failures / requests if requests else 1.0,
        "exceptions": len(environment.runner.exceptions),
        **{name: quantile(ordered, share) for name, share in PERCENTILES.items()},
    }
    (Path(PLAN.folder) / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    # Failures are judged by their share, not by locust.
    environment.process_exit_code = 0
