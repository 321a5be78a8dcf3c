"""Locust as a process of its own: started, watched, ended."""

import asyncio
import csv
import math
import os
import signal
import sys
import time
from pathlib import Path

from loadtests.kit.plan import KEY_VARIABLE, PLAN_VARIABLE, Plan
from loadtests.processes import HOST, PROJECT, Program, ServerError, free_port, spawn, tail
from loadtests.screen import Screen

HERE = Path(__file__).resolve().parent
# Seconds beside those of the run: workers start and connect, users finish what they are at.
MARGIN_SECONDS = 90.0
# Seconds that users get to finish what they are at; one request may take 30.
FINISH_SECONDS = 45
# Seconds between being told to end and being ended.
END_SECONDS_MAX = 60.0
# Users that start in a second.
SPAWN_RATE = 50
# Seconds between two looks at how far it is.
LOOK_SECONDS = 0.5


def command(plan: Plan, processes: int, ui_port: int | None) -> list[str]:
    """
    Return how locust is started.

    Args:
        processes: 1 for all users in one process, otherwise so many workers and one that collects their figures.

        ui_port: Of the web UI on this machine; None for no UI.
    """
    folder = Path(plan.folder)
    words = [sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--host", plan.url]
    words += ["--csv", str(folder / "stats"), "--csv-full-history", "--html", str(folder / "report.html")]
    words += ["--stop-timeout", str(FINISH_SECONDS), "--only-summary"]
    if plan.shape == "steady":
        words += ["--users", str(plan.users), "--spawn-rate", str(SPAWN_RATE), "--run-time", f"{plan.seconds:g}s"]
    if ui_port is None:
        words.append("--headless")
    else:
        words += ["--autostart", "--web-host", HOST, "--web-port", str(ui_port)]
    if processes > 1:
        # A free port for the workers: two load tests on one machine must not meet.
        port = str(free_port())
        words += ["--processes", str(processes), "--master-bind-host", HOST]
        words += ["--master-bind-port", port, "--master-port", port]
    return words


async def run_locust(plan: Plan, key: str, processes: int, ui_port: int | None, screen: Screen) -> None:
    """
    Run the users of a plan; what locust says is in `console.log`.

    Without a UI it ends by itself, or is ended after a bounded time; with one, when it is interrupted.

    Raises:
        ServerError: It failed, or did not end in time.
    """
    folder = Path(plan.folder)
    variables = {PLAN_VARIABLE: str(folder / "plan.json"), KEY_VARIABLE: key, "PYTHONPATH": str(PROJECT)}
    locust = Program(spawn(command(plan, processes, ui_port), folder / "console.log", {**os.environ, **variables}))
    if ui_port is not None:
        screen.say(f"web UI: http://{HOST}:{ui_port}/   Ctrl-C ends the run and checks it")
    try:
        seconds = math.inf if ui_port is not None else plan.seconds + MARGIN_SECONDS
        await _watch(locust, plan, seconds, screen)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        screen.say("stopping; what has been promised so far is checked")
        # Not SIGTERM: locust writes no report then.
        await locust.end(signal.SIGINT, END_SECONDS_MAX)
    finally:
        await locust.end(signal.SIGINT, 0.0)
    if locust.code != 0 or not (folder / "figures.json").exists():
        raise ServerError(f"locust failed (exit {locust.code}; -9: it did not end):\n{tail(folder / 'console.log')}")


async def _watch(locust: Program, plan: Plan, seconds: float, screen: Screen) -> None:
    """Show how far locust is until it ends, or that time is over."""
    deadline = time.monotonic() + seconds
    while not locust.ended and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        if found := _progress(plan):
            screen.progress(f"{plan.scenario}: {found}")


def _progress(plan: Plan) -> str:
    """Return what locust's file of statistics says at last of all requests; nothing where there are no users yet."""
    history = Path(plan.folder) / "stats_stats_history.csv"
    if not history.exists():
        return ""
    with history.open(encoding="utf-8", newline="") as lines:
        # The last line may be half written.
        whole = (row for row in csv.DictReader(lines) if row["Total Failure Count"])
        rows = [row for row in whole if row["Name"] == "Aggregated" and row["User Count"] != "0"]
    if not rows:
        return ""
    row, elapsed = rows[-1], int(rows[-1]["Timestamp"]) - int(rows[0]["Timestamp"])
    rates = f"{row['User Count']} users, {float(row['Requests/s']):,.0f} requests/s, p95 {row['95%']} ms"
    return f"{elapsed} of {plan.seconds:.0f} s, {rates}, {row['Total Failure Count']} failed"
