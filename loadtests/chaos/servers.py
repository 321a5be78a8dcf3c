"""`tallystick serve` as a process that may be killed, frozen and started again, and the other commands."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from loadtests.chaos.processes import children, ended, send, spawn
from loadtests.own_server import HOST, PROJECT, ServerError, free_port, resident_bytes

PROGRAM = [sys.executable, "-m", "server.cli"]
# To become ready on a busy machine, once its databases are there.
READY_SECONDS_MAX = 60.0
READY_POLL_SECONDS = 0.05
# Between two attempts of one that ended before it was ready, as it does while PostgreSQL is away.
AGAIN_SECONDS = 0.3
# For the answer of a probe.
PROBE_SECONDS = 2.0
# Above the supervisor's own patience with its workers.
STOP_SECONDS_MAX = 40.0
KILLED_SECONDS_MAX = 10.0
# A machine that is busy is not a Redis that is away: the usual 50 ms would tell of the machine only.
REDIS_TIMEOUT_MS = 1_000
# Of each server: enough to kill one and be served by the other.
WORKERS = 2
# Connections to PostgreSQL of each of the two pools of a worker.
POOL = 4
SETTINGS = {
    "redis_timeout_ms": str(REDIS_TIMEOUT_MS),
    "workers": str(WORKERS),
    "admin_port": "0",
    "posting_connections": str(POOL),
    "reading_connections": str(POOL),
}
# What a server says at its end of what it has read out of Redis.
_HITS = re.compile(r"cache: hits=(\d+)")


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with no settings of the service but these."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    # The program of this checkout, wherever another one may be installed.
    inherited["PYTHONPATH"] = str(PROJECT)
    return inherited | {f"TALLYSTICK_{name.upper()}": text for name, text in settings.items()}


async def run_command(database_url: str, *arguments: str, seconds_max: float) -> tuple[int, str]:
    """
    Run a command to its end; return its exit code and what it said.

    Raises:
        ServerError: It does not end in time.
    """
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        env=environment(database_url=database_url, redis_url="redis://127.0.0.1:1"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds_max):
            said, _ = await process.communicate()
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise ServerError(f"{' '.join(arguments)} did not end in {seconds_max:.0f} s") from error
        raise
    return process.returncode or 0, said.decode(errors="replace").strip()


class Server:
    """
    One server; its address stays when it is started again.

    Args:
        number: Its name.

        settings: By name, without the prefix.

        log: Takes what it says.

        temporary: For what it leaves behind when it is killed.
    """

    def __init__(self, number: int, settings: Mapping[str, str], log: Path, temporary: Path) -> None:
        self.number = number
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.log = log
        self._settings = settings
        self._temporary = str(temporary)
        self._process: subprocess.Popen[bytes] | None = None
        # Whether it may end by itself: it was not ready yet, as while PostgreSQL is away, or was told to end.
        self._may_end = True

    @property
    def pid(self) -> int:
        """Of its first process, the supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def died(self) -> int | None:
        """The exit code of one that ended though nobody had asked it to."""
        return None if self._process is None or self._may_end else self._process.poll()

    @property
    def ended(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self._process is None or self._process.poll() is not None

    def start(self, failpoints: str = "") -> None:
        """Start it; whoever needs it waits until it is ready."""
        settings = {"port": str(self.port), "host": HOST, **SETTINGS, **self._settings}
        if failpoints:
            settings["failpoints"] = failpoints
        self._may_end = True
        variables = environment(**settings) | {"TMPDIR": self._temporary}
        self._process = spawn([*PROGRAM, "serve"], self.log, folder=PROJECT, environment=variables)

    async def ready(self) -> None:
        """
        Return when it is ready, started again where it has ended before it was.

        Raises:
            ServerError: It is not, in time.
        """
        deadline = asyncio.get_running_loop().time() + READY_SECONDS_MAX
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while asyncio.get_running_loop().time() < deadline:
                if self.ended:
                    await asyncio.sleep(AGAIN_SECONDS)
                    self.start()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            self._may_end = False
                            return
                await asyncio.sleep(READY_POLL_SECONDS)
        raise ServerError(f"server {self.number} is not ready; {self.log} says why")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its supervisor."""
        send(self.pid, number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        for pid in (self.pid, *self.workers()):
            send(pid, number)

    def workers(self) -> list[int]:
        """Return its worker processes."""
        return children(self.pid)

    async def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._may_end = True
        self._process.kill()
        await ended(self._process, KILLED_SECONDS_MAX)

    async def stop(self) -> int | None:
        """Ask it to end; return its exit code, or None when it had to be killed."""
        assert self._process is not None
        self._may_end = True
        self.send(signal.SIGTERM)
        if await ended(self._process, STOP_SECONDS_MAX):
            return self._process.returncode
        await self.kill_all()
        return None

    async def kill_all(self) -> None:
        """End all its processes, frozen ones too."""
        if not self.ended:
            for pid in self.workers():
                send(pid, signal.SIGKILL)
            await self.kill()

    def resident_bytes(self) -> int:
        """Return the memory of all its processes; 0 where the system does not tell."""
        return sum(resident_bytes(pid) for pid in (self.pid, *self.workers()))

    def hits(self) -> int:
        """Return how many accounts it has read out of Redis, as far as it has said so."""
        return sum(map(int, _HITS.findall(self.log.read_text(encoding="utf-8", errors="replace"))))
