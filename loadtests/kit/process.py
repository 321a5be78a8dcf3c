"""Locust as a process of its own: started, listened to, ended."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from loadtests.kit.plan import KEY_VARIABLE, PLAN_VARIABLE, PROGRESS, Plan
from loadtests.processes import HOST, PROJECT, free_port, tail
from loadtests.screen import Screen

HERE = Path(__file__).resolve().parent
# Seconds beside those of the run: workers start and connect, users finish what they are at.
MARGIN_SECONDS = 90.0
# Seconds that users get to finish what they are at; one request may take 30.
FINISH_SECONDS = 45
# Seconds between being told to end and being ended.
END_SECONDS_MAX = 60.0
# Seconds between its last word and its end: its workers go first.
EXIT_SECONDS_MAX = 15.0
# Users that start in a second.
SPAWN_RATE = 50


class LocustError(Exception):
    """Locust did not do what it was started for; the message says where its words are."""


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
    Run the users of a plan; what locust says is in `console.log`, but for its progress, which is shown.

    Without a UI it ends by itself, or is ended after a bounded time; with one, when it is interrupted.

    Raises:
        LocustError: It failed, or did not end in time.
    """
    log = Path(plan.folder) / "console.log"
    process = await asyncio.create_subprocess_exec(
        *command(plan, processes, ui_port),
        env={
            **os.environ,
            PLAN_VARIABLE: str(Path(plan.folder) / "plan.json"),
            KEY_VARIABLE: key,
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Ctrl-C in a terminal reaches a whole group; locust is then told by us, once, and reports.
        start_new_session=True,
    )
    if ui_port is not None:
        screen.say(f"web UI: http://{HOST}:{ui_port}/   Ctrl-C ends the run and checks it")
    seconds = None if ui_port is not None else plan.seconds + MARGIN_SECONDS
    listening = asyncio.create_task(_listen(process, log, screen))
    try:
        await _until_ended(process, listening, seconds, screen)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # The group is locust's alone, its workers in it; its id is the process's.
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.gather(process.wait(), listening)
    if process.returncode != 0 or not (Path(plan.folder) / "figures.json").exists():
        raise LocustError(f"locust failed (exit {process.returncode}; -9 is after {seconds} s):\n{tail(log)}")


async def _listen(process: asyncio.subprocess.Process, log: Path, screen: Screen) -> None:
    """Show locust's progress and keep what else it says, until it ends."""
    assert process.stdout is not None
    with log.open("wb") as said:
        async for line in process.stdout:
            if line.startswith(PROGRESS.encode()):
                screen.progress(line.decode().removeprefix(PROGRESS).rstrip())
            else:
                said.write(line)
                said.flush()


async def _until_ended(
    process: asyncio.subprocess.Process, listening: "asyncio.Task[None]", seconds: float | None, screen: Screen
) -> None:
    """Return when locust has ended, is overdue, or has been interrupted by whoever started us and has reported."""
    try:
        await asyncio.wait([listening], timeout=seconds)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        screen.say("stopping; what has been promised so far is checked")
        # Not SIGTERM: locust writes no report then.
        process.send_signal(signal.SIGINT)
        await asyncio.wait([listening], timeout=END_SECONDS_MAX)
    # Between its last word and its end its workers go.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(EXIT_SECONDS_MAX if listening.done() else 0):
            await process.wait()
