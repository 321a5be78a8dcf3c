"""Processes that a load test starts: how they are started, watched and ended, and how the test itself ends."""

import asyncio
import contextlib
import ctypes
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from loadtests.errors import INTERRUPTED, NOT_RUN, NotRunError

HOST = "127.0.0.1"
PROJECT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.02
# Between SIGKILL and the end.
KILLED_SECONDS_MAX = 10.0
# Lines of a program's output that are shown when it failed.
LINES_SHOWN = 20
BYTES_SHOWN_MAX = 16_384
# Ports of programs that are started here, and how many are tried. Linux and macOS give higher ones to connections from
# their own side, which may take a port between its choice and its use.
PORTS = range(10_000, 32_000)
PORTS_TRIED_MAX = 100
# Names of processes and what they stand for; everything else is the server itself.
CPU_KINDS = {"postgres": "postgres", "valkey-server": "redis", "redis-server": "redis"}
_PR_SET_PDEATHSIG = 1

# Seconds of user and of system time, by kind.
Times = dict[str, tuple[float, float]]


class ServerError(NotRunError):
    """A server or another program could not be started, or failed; the message says why."""


def run_program(
    name: str, main: Coroutine[Any, Any, int], loop: "Callable[[], asyncio.AbstractEventLoop] | None" = None
) -> int:
    """
    Run a program and return its exit code: NOT_RUN when it cannot go on, which it says, or INTERRUPTED when SIGINT or
    SIGTERM cancelled it and it has ended what it started.

    Args:
        loop: Makes the event loop; asyncio's own by default.
    """

    async def cancelled_by_signals() -> int:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            # Also where a script has started us in its background, which ignores SIGINT.
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(cancelled_by_signals())
    except NotRunError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return NOT_RUN
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def spawn(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """
    Start a program that ends with this process (on Linux); call it from the main thread.

    Args:
        log: What it says is added to this file.

    Raises:
        ServerError: It cannot be run.
    """
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                command,
                cwd=PROJECT,
                env=os.environ if environment is None else environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group; these are ended in order by us.
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 (from the only thread)
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerError(f"{command[0]} cannot be run: {error}") from error


def _end_with(parent: int) -> Callable[[], None] | None:
    if platform.system() != "Linux":
        return None
    # Looked up before the fork: the child between fork and exec should only call it.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


class Program:
    """A program that is started, broken and started again."""

    def __init__(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, or before it is started."""
        return None if self._process is None else self._process.poll()

    @property
    def ended(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self._process is None or self._process.poll() is not None

    def family(self) -> list[int]:
        """Return its processes and all that they have started."""
        return family(self.pid)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        for pid in self.family():
            send(pid, number)

    async def end(self, number: signal.Signals, seconds_max: float) -> bool:
        """End it by a signal; after some time end its whole group. Return whether it has ended by itself."""
        if self.ended:
            return True
        send(self.pid, number)
        try:
            if await self._ends(seconds_max):
                return True
        finally:
            if not self.ended:
                with contextlib.suppress(ProcessLookupError):
                    # The group is this program's alone; its id is that of its first process.
                    os.killpg(self.pid, signal.SIGKILL)
        await self._ends(KILLED_SECONDS_MAX)
        return False

    async def _ends(self, seconds_max: float) -> bool:
        deadline = time.monotonic() + seconds_max
        while not self.ended:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True


async def answers(probe: Callable[[], Awaitable[object]], seconds_max: float, *errors: type[Exception]) -> bool:
    """Call *probe* until it returns something true; return False when it did not within some time."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, *errors):
            if await probe():
                return True
        await asyncio.sleep(POLL_SECONDS)
    return False


class Done(NamedTuple):
    """A command that has ended: its exit code, its standard output and its standard error."""

    code: int
    output: str
    errors: str

    @property
    def last_lines(self) -> str:
        """The last lines of both outputs: its result, or why it failed."""
        return "\n".join((self.errors + self.output).splitlines()[-LINES_SHOWN:])

    @property
    def last_line(self) -> str:
        """The last line of all."""
        return self.last_lines.rpartition("\n")[2]


async def run_command(
    command: Sequence[str | Path], seconds_max: float, environment: Mapping[str, str] | None = None
) -> Done:
    """
    Run a command that ends by itself, without a terminal.

    Raises:
        ServerError: It cannot be run, or did not end in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            # uvloop takes nothing but a dict.
            env=dict(os.environ if environment is None else environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ServerError(f"{command[0]} cannot be run: {error}") from error
    try:
        async with asyncio.timeout(seconds_max):
            output, errors = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            words = " ".join(str(word) for word in command)
            raise ServerError(f"{words} did not end in {seconds_max:.0f} s") from error
        raise
    return Done(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - BYTES_SHOWN_MAX))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LINES_SHOWN:])


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def free_port() -> int:
    """
    Return a port that nothing listens on, and that no connection is given from its own side.

    Raises:
        ServerError: None of those that were tried is free.
    """
    for port in random.sample(PORTS, PORTS_TRIED_MAX):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerError("no port is free")


def family(root: int) -> list[int]:
    """Return a process and all that it and those have started."""
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [root]


def command_line(pid: int) -> list[str]:
    """Return the words that a process was started with; none when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return list(psutil.Process(pid).cmdline())
    return []


def resident_bytes(pid: int) -> int:
    """Return the memory of a process that is in use; 0 when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def keep_to(cores: set[int], pids: Sequence[int]) -> None:
    """Let processes, with all their threads, run on some cores only, on Linux."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in psutil.Process(pid).threads():
                os.sched_setaffinity(thread.id, cores)


def cpu_times(roots: Sequence[int]) -> Times:
    """Return the CPU time that these processes and all they have started have used so far."""
    found: Times = {}
    for pid in {pid for root in roots for pid in family(root)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            kind, times = CPU_KINDS.get(process.name(), "server"), process.cpu_times()
            user, system = found.get(kind, (0.0, 0.0))
            # With what children have used that have ended since: a PostgreSQL has one a connection.
            found[kind] = (user + times.user + times.children_user, system + times.system + times.children_system)
    return found


def cpu_used(before: Times, after: Times) -> dict[str, list[float]]:
    """Return what was used in between."""
    zero = (0.0, 0.0)
    return {
        kind: [round(late - early, 3) for late, early in zip(total, before.get(kind, zero), strict=True)]
        for kind, total in sorted(after.items())
    }
