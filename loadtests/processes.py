"""Starts, watches and ends the processes of a load test, and ends the test itself on signals."""

import asyncio
import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import uvloop

from loadtests.errors import INTERRUPTED, NOT_RUN, NotRunError
from tallystick_client import TallystickError

HOST = "127.0.0.1"
PROJECT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.02
# Seconds between SIGKILL and the end of a process.
KILLED_SECONDS_MAX = 10.0
# Lines of output that are shown when a program failed.
LINES_SHOWN = 20
# Blocks of ports for programs that are started here. Each process has a block for itself: otherwise another one could
# take a port between its choice and its use. For the same reason they are below the ports of outgoing connections on
# Linux and macOS.
PORT_BLOCKS = range(10_000, 32_000, 200)
# Names of processes by kind; every other process is the server itself.
CPU_KINDS = {"postgres": "postgres", "valkey-server": "redis", "redis-server": "redis"}
# Ends a program when the thread that started it has ended: otherwise it would outlive a load test that is killed.
DIE_WITH_US = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()

# Seconds of user and of system time, by kind.
Times = dict[str, tuple[float, float]]


def run_program(name: str, main: Coroutine[Any, Any, int]) -> int:
    """Run a program and return its exit code: INTERRUPTED if SIGINT or SIGTERM cancelled it."""

    async def cancelled_by_signals() -> int:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            # This also works if a script started us in its background, where SIGINT is ignored.
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    try:
        return uvloop.run(cancelled_by_signals())
    except (NotRunError, TallystickError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return NOT_RUN
    except ExceptionGroup:
        # A failure inside the program: the traceback says more than the message.
        traceback.print_exc()
        return NOT_RUN
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def spawn(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a program that ends with this process (on Linux); its output is appended to a file."""
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                [*DIE_WITH_US, *command],
                cwd=PROJECT,
                env=os.environ if environment is None else environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group; the load test ends its programs itself, in order.
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NotRunError(f"{command[0]} cannot be run: {error}") from error


class Program:
    """A program that can be ended and started again with `start`, if a subclass defines it."""

    # The signal that ends it at once.
    DEATH = signal.SIGKILL

    def __init__(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, or before it is started."""
        return None if self._process is None else self._process.poll()

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def start(self) -> None:
        raise NotImplementedError

    def send_all(self, number: signal.Signals) -> None:
        for pid in family(self.pid):
            send(pid, number)

    async def end(self, number: signal.Signals, seconds_max: float) -> bool:
        """End it by a signal; kill its whole group after a timeout. Return whether it ended by itself."""
        if not self.ended:
            send(self.pid, number)
        try:
            return await self.ends_within(seconds_max)
        finally:
            if not self.ended:
                with contextlib.suppress(ProcessLookupError):
                    # The group belongs to this program alone; its id is that of its first process.
                    os.killpg(self.pid, signal.SIGKILL)
                await self.ends_within(KILLED_SECONDS_MAX)

    async def close(self) -> None:
        """End it at once, whatever state it is in."""
        if not self.ended:
            self.send_all(signal.SIGCONT)
            await self.end(self.DEATH, KILLED_SECONDS_MAX)

    async def ends_within(self, seconds_max: float) -> bool:
        async def probe() -> bool:
            return self.ended

        return await answers(probe, seconds_max) or self.ended


async def answers(probe: Callable[[], Awaitable[object]], seconds_max: float, *errors: type[Exception]) -> bool:
    """Call *probe* until it returns something true; return False if that takes too long."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, *errors):
            if await probe():
                return True
        await asyncio.sleep(POLL_SECONDS)
    return False


class Done(NamedTuple):
    code: int
    output: str
    errors: str

    @property
    def last_lines(self) -> str:
        """The last lines of both outputs: its result, or why it failed."""
        return "\n".join((self.errors + self.output).splitlines()[-LINES_SHOWN:])

    @property
    def last_line(self) -> str:
        return self.last_lines.rpartition("\n")[2]


async def run_command(
    command: Sequence[str | Path], seconds_max: float, environment: Mapping[str, str] | None = None
) -> Done:
    """Run a command that ends by itself, without a terminal."""
    words = [str(word) for word in command]
    run = partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    try:
        done = await asyncio.to_thread(run, words, env=environment, check=False, timeout=seconds_max)
    except OSError as error:
        raise NotRunError(f"{words[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise NotRunError(f"{' '.join(words)} did not end in {seconds_max:.0f} s") from error
    return Done(done.returncode, done.stdout, done.stderr)


def tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:])


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def free_port() -> int:
    """Return a port that nothing listens on; the same port is returned again only after all others of the block."""
    for port in islice(_own_ports(), PORT_BLOCKS.step):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise NotRunError("no port is free")


@cache
def _own_ports() -> Iterator[int]:
    """Return the ports of this process's block, over and over. A socket on the first port claims the block."""
    for first in random.sample(PORT_BLOCKS, len(PORT_BLOCKS)):
        claim = socket.socket()
        try:
            claim.bind((HOST, first))
        except OSError:
            claim.close()
        else:
            atexit.register(claim.close)
            return cycle(range(first + 1, first + PORT_BLOCKS.step))
    raise NotRunError("no port is free")


def family(root: int) -> list[int]:
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [root]


def resident_bytes(pid: int) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def keep_to(cores: set[int], pids: Sequence[int]) -> None:
    """Restrict processes, with all their threads, to some cores, on Linux."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in psutil.Process(pid).threads():
                os.sched_setaffinity(thread.id, cores)


def cpu_times(roots: Sequence[int]) -> Times:
    """Return the CPU time that these processes and all their children have used so far."""
    found: Times = {}
    for pid in {pid for root in roots for pid in family(root)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            kind, times = CPU_KINDS.get(process.name(), "server"), process.cpu_times()
            user, system = found.get(kind, (0.0, 0.0))
            # This includes children that have ended since: PostgreSQL has one for each connection.
            found[kind] = (user + times.user + times.children_user, system + times.system + times.children_system)
    return found


def cpu_used(before: Times, after: Times) -> dict[str, list[float]]:
    zero = (0.0, 0.0)
    return {
        kind: [round(late - early, 3) for late, early in zip(total, before.get(kind, zero), strict=True)]
        for kind, total in sorted(after.items())
    }
