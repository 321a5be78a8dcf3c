"""The open-loop generator as a process of its own."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from loadtests.bench import cpu
from loadtests.bench.places import Tallystick
from loadtests.bench.record import BenchError, Run
from loadtests.own_server import run_command, said

# Seconds beside those of a run: connections are made, the last answers are waited for.
MARGIN_SECONDS = 90.0
FIGURES = ("good", "late", "refused", "failed", "broken", "gave_up", "p50", "p99", "p999", "lag_p99")


class OpenLoopError(BenchError):
    """The generator failed."""


def run_open(running: Tallystick, workload: str, rate: float, seconds: float, connections: int) -> Run:
    """
    Send requests at instants that are fixed beforehand; latency counts from when each was due.

    Raises:
        OpenLoopError: The generator failed.
    """
    place, roots = running.place, [running.server.pid]
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "loadtests.openloop", "--url", f"http://{place.host}:{place.port}"]
        command += ["--key", place.keys[0], "--rate", f"{rate:.1f}", "--seconds", f"{seconds:g}"]
        command += ["--connections", str(connections), "--accounts", str(len(place.accounts))]
        command += ["--workload", workload, "--json", str(file)]
        before, own = cpu.times(roots), os.times()
        began = time.perf_counter()
        done = run_command(command, seconds + MARGIN_SECONDS, os.environ)
        taken = time.perf_counter() - began
        after, now = cpu.times(roots), os.times()
        if not file.exists():
            raise OpenLoopError(f"the generator failed (exit {done.returncode}):\n{said(done)}")
        found = json.loads(file.read_text(encoding="utf-8"))
    generator = [now.children_user - own.children_user, now.children_system - own.children_system]
    return {
        "workload": workload,
        "connections": connections,
        "seconds": seconds,
        "rate": rate,
        "offered": found["offered_rate"],
        "per_second": found["goodput"],
        **{name: found[name] for name in FIGURES},
        # The generator says by its exit code that it was late itself: such a run says little about the server.
        "late_generator": done.returncode != 0,
        "generator_share": sum(generator) / taken,
        "cpu": {**cpu.used(before, after), "generator": generator},
    }
