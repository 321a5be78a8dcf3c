"""Locust as a process of its own: started, listened to, ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO

from loadtests.kit.plan import KEY_VARIABLE, PLAN_VARIABLE, Plan
from loadtests.kit.screen import Screen
from loadtests.own_server import PROJECT

HERE = Path(__file__).resolve().parent
# What a line of progress begins with, among everything else that locust says.
PROGRESS = "progress: "
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
# Lines of what locust said last, when it failed.
LINES_SHOWN = 20
WEB_HOST = "127.0.0.1"


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
        words += ["--autostart", "--web-host", WEB_HOST, "--web-port", str(ui_port)]
    if processes > 1:
        # A free port for the workers: two load tests on one machine must not meet.
        port = str(_free_port())
        words += ["--processes", str(processes), "--master-bind-host", WEB_HOST]
        words += ["--master-bind-port", port, "--master-port", port]
    return words


def run_locust(plan: Plan, key: str, processes: int, ui_port: int | None, screen: Screen) -> None:
    """
    Run the users of a plan; what locust says is in `console.log`, but for its progress, which is shown.

    Without a UI it ends by itself, or is ended after a bounded time; with one, when it is interrupted.

    Raises:
        LocustError: It failed, or did not end in time.
    """
    log = Path(plan.folder) / "console.log"
    environment = {
        **os.environ,
        PLAN_VARIABLE: str(Path(plan.folder) / "plan.json"),
        KEY_VARIABLE: key,
        "PYTHONPATH": str(PROJECT),
        "PYTHONUNBUFFERED": "1",
    }
    with (
        log.open("w", encoding="utf-8") as said,
        subprocess.Popen(
            command(plan, processes, ui_port),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C in a terminal reaches a whole group; locust is then told by us, once, and reports.
            start_new_session=True,
        ) as process,
    ):
        if ui_port is not None:
            screen.say(f"web UI: http://{WEB_HOST}:{ui_port}/   Ctrl-C ends the run and checks it")
        seconds = plan.seconds + MARGIN_SECONDS
        overdue = threading.Timer(seconds, _kill, (process,))
        overdue.daemon = True
        if ui_port is None:
            overdue.start()
        try:
            _listen(process, said, screen)
        finally:
            overdue.cancel()
            _end(process)
    if process.returncode != 0 or not (Path(plan.folder) / "figures.json").exists():
        raise LocustError(f"locust failed (exit {process.returncode}; -9 is after {seconds:.0f} s):\n{_tail(log)}")


def _listen(process: "subprocess.Popen[str]", said: TextIO, screen: Screen) -> None:
    """Return when locust has ended, or has been interrupted by whoever started us."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith(PROGRESS):
                screen.progress(line.removeprefix(PROGRESS).rstrip())
            else:
                said.write(line)
                said.flush()
    except KeyboardInterrupt:
        screen.say("stopping; what has been promised so far is checked")
        # Not SIGTERM: locust writes no report then.
        process.send_signal(signal.SIGINT)
        # The rest of its words, so that it is not held up by a full pipe.
        with contextlib.suppress(subprocess.TimeoutExpired):
            rest, _ = process.communicate(timeout=END_SECONDS_MAX)
            said.write(rest or "")


def _kill(process: "subprocess.Popen[str]") -> None:
    # The group is locust's alone (start_new_session), its workers in it; its id is the process's.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: "subprocess.Popen[str]") -> None:
    """Leave no process behind."""
    try:
        process.wait(EXIT_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        _kill(process)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((WEB_HOST, 0))
        return int(probe.getsockname()[1])
