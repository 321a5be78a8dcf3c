"""`make overload` as a part of the benchmark."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from loadtests.bench.record import BenchError, Run
from loadtests.bench.scale import Scale
from loadtests.bench.work import Audits
from loadtests.overload import CALLERS, PEAK_TRIED
from loadtests.own_server import run_command, said

# Seconds of a curve beside its runs: a server starts and warms up, a thousand fates are looked up a run, an audit.
MARGIN_SECONDS = 400.0
# Runs of a curve beside those of its factors, at most: the unloaded one and the one afterwards too.
OTHER_RUNS = len(CALLERS) + len(PEAK_TRIED) + 2
FIGURES = ("p50", "p99", "refused_p99", "lag_p99")


class OverloadError(BenchError):
    """The curve could not be measured."""


def run_overload(scale: Scale, audits: Audits) -> Iterator[Run]:
    """
    Measure one curve on a server of its own.

    Raises:
        OverloadError: It said no figures.
    """
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder:
        file = Path(folder) / "curve.json"
        factors = [str(factor) for factor in scale.factors]
        command = [sys.executable, "-m", "loadtests.overload", "--workload", "post", "--seconds"]
        command += [f"{scale.overload_seconds:g}", "--json", str(file), "--factors", *factors]
        if len(os.sched_getaffinity(0)) > 1:
            command.append("--pin")
        runs = len(factors) + OTHER_RUNS
        done = run_command(command, runs * scale.overload_seconds + MARGIN_SECONDS, os.environ)
        if not file.exists():
            raise OverloadError(f"no curve (exit {done.returncode}):\n{said(done)}")
        found = json.loads(file.read_text(encoding="utf-8"))
    lies = found["lies"]
    audits.note("overload", found["clean"] and not lies, "; ".join([found["audit"].splitlines()[-1], *lies[:3]]))
    for step in found["steps"]:
        summary = step["summary"]
        seconds = summary["seconds"]
        yield {
            "workload": "post",
            "step": step["name"],
            "seconds": seconds,
            "offered": summary["offered_rate"],
            "per_second": summary["goodput"],
            "refused_per_second": summary["refused"] / seconds,
            "unsent_per_second": summary["gave_up"] / seconds,
            "of_peak": step["share"],
            "memory_mib": step["memory_mib"],
            **{name: summary[name] for name in FIGURES},
        }
