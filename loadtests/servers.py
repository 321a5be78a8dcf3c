"""
`tallystick serve` as a process: started, asked for keys and audits, broken, started again, stopped.

It is used through its command line like by any operator, so that a run needs nothing prepared.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.client import Client, NoAnswer
from loadtests.processes import (
    HOST,
    KILLED_SECONDS_MAX,
    PROJECT,
    Done,
    Program,
    ServerError,
    answers,
    command_line,
    free_port,
    resident_bytes,
    run_command,
    spawn,
    tail,
)

# The first start makes a database cluster, on a busy machine too.
READY_SECONDS_MAX = 180.0
# Of one that has its databases: `ready` starts it again until then, with this pause.
AGAIN_SECONDS_MAX = 60.0
AGAIN_PAUSE_SECONDS = 0.3
PROBE_SECONDS_MAX = 2.0
# Above the supervisor's own patience with its workers, and the time in which its databases end.
STOP_SECONDS_MAX = 40.0
COMMAND_SECONDS_MAX = 60.0
# An audit folds every entry of every account.
AUDIT_SECONDS_MAX = 600.0
# A load test asks how fast the ledger posts, not whether the limiter limits.
PLENTY = ("--rate", "1000000/s", "--burst", "1000000", "--concurrency", "100000")
# Seconds until a cache that has just been started is read from, and a little more.
WARM_UP_SECONDS = 12.0
WARM_PAUSE_SECONDS = 0.2
# In the command line of the process that serves.
WORKER = "server.process.worker"
# What is measured is one worker: beside it, a small machine has room for the generator.
OWN_SETTINGS = {"workers": "1", "admin_port": "0"}


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with no settings of the service but these."""
    # A database named in the caller's environment is not this server's to write to.
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    # The program of this checkout, wherever another one may be installed.
    inherited["PYTHONPATH"] = str(PROJECT)
    return inherited | {f"TALLYSTICK_{name.upper()}": text for name, text in settings.items()}


def program() -> list[str]:
    """
    Return the command that runs the service, from a virtual environment that has its packages.

    Raises:
        ServerError: There is none.
    """
    for folder in (Path(sys.executable).parent, PROJECT / ".venv" / "bin"):
        if (folder / "tallystick").exists():
            return [str(folder / "python"), "-m", "server.cli"]
    raise ServerError("there is no tallystick command beside this python; run `make setup`")


async def tallystick(*arguments: str, settings: Mapping[str, str], seconds_max: float = COMMAND_SECONDS_MAX) -> Done:
    """
    Run a command of the service to its end.

    Raises:
        ServerError: It cannot be run, or did not end in time.
    """
    return await run_command([*program(), *arguments], seconds_max, environment(settings))


async def create_key(settings: Mapping[str, str], ledger: str, limits: Sequence[str] = PLENTY) -> str:
    """
    Return the secret of a new admin key for the ledger, which is made if it does not exist.

    Raises:
        ServerError: None was made.
    """
    done = await tallystick("keys", "create", "--ledger", ledger, "--role", "admin", *limits, settings=settings)
    if done.code != 0:
        raise ServerError(f"keys create made no key (exit {done.code}):\n{done.last_lines}")
    return done.output.strip()


async def serves(program: Program, url: str, path: str, seconds_max: float) -> bool:
    """Return whether a program that has been started answers a GET with 200 within some time, and has not ended."""
    async with Client(url, "", connections_max=1) as client:

        async def probe() -> bool:
            return program.ended or (await client.ask("GET", path, seconds_max=PROBE_SECONDS_MAX)).status == 200

        return await answers(probe, seconds_max, NoAnswer) and not program.ended


class Server(Program):
    """
    One server; its address stays when it is started again.

    Args:
        name: For messages.

        settings: By name, without the prefix.

        log: Takes what it says.

        temporary: For what it leaves behind when it is killed.
    """

    def __init__(self, name: str, settings: Mapping[str, str], log: Path, temporary: Path) -> None:
        super().__init__()
        self.name = name
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        self.log = log
        self.settings = {"host": HOST, "port": str(port), **settings}
        self._temporary = str(temporary)
        self._began = 0.0
        # Whether it may end by itself: it was not ready yet, as while PostgreSQL is away, or was told to end.
        self._may_end = True

    @property
    def died(self) -> int | None:
        """The exit code of one that ended though nobody had asked it to."""
        return None if self._may_end else self.code

    def start(self, **settings: str) -> None:
        """Start it, with more settings; whoever needs it waits until it is ready."""
        self._may_end, self._began = True, time.monotonic()
        variables = environment({**self.settings, **settings}) | {"TMPDIR": self._temporary}
        self._process = spawn([*program(), "serve"], self.log, variables)

    async def ready(self) -> None:
        """
        Return when `GET /readyz` answers 200.

        Raises:
            ServerError: It has ended, or does not within READY_SECONDS_MAX.
        """
        if not await serves(self, self.url, "/readyz", READY_SECONDS_MAX):
            raise ServerError(f"server {self.name} is not ready:\n{tail(self.log)}")
        self._may_end = False

    async def ready_again(self) -> None:
        """
        Return when it is ready, started again where it has ended before it was.

        Raises:
            ServerError: It is not, within AGAIN_SECONDS_MAX.
        """
        try:
            async with asyncio.timeout(AGAIN_SECONDS_MAX):
                while True:
                    try:
                        return await self.ready()
                    except ServerError:
                        await asyncio.sleep(AGAIN_PAUSE_SECONDS)
                        self.start()
        except TimeoutError:
            raise ServerError(f"server {self.name} is not ready; {self.log} says why") from None

    async def warm(self, key: str, seconds: float = WARM_UP_SECONDS) -> None:
        """Return when it has run for so long, by default until it reads accounts out of Redis."""
        async with Client(self.url, key) as client:
            while (left := self._began + seconds - time.monotonic()) > 0:
                # Asked now and then: a Redis that nobody asks is not looked at.
                await client.get("/v1/accounts?limit=1")
                await asyncio.sleep(min(WARM_PAUSE_SECONDS, left))

    async def create_key(self, ledger: str, limits: Sequence[str] = PLENTY) -> str:
        """Return the secret of a new admin key for the ledger, which is made if it does not exist."""
        return await create_key(self.settings, ledger, limits)

    async def audit(self) -> Done:
        """Return what `tallystick audit` says of its books; exit code 0 when they are right."""
        return await tallystick("audit", settings=self.settings, seconds_max=AUDIT_SECONDS_MAX)

    @property
    def worker(self) -> int:
        """The process that serves, on Linux; 0 elsewhere."""
        return next((pid for pid in self.family() if WORKER in command_line(pid)), 0)

    def resident_bytes(self) -> int:
        """Return the memory of all its processes; 0 where the system does not tell."""
        return sum(map(resident_bytes, self.family()))

    async def stop(self) -> int | None:
        """Ask it to end; return its exit code, or None when it had to be killed."""
        self._may_end = True
        return self.code if await self.end(signal.SIGTERM, STOP_SECONDS_MAX) else None

    async def kill(self) -> None:
        """End its supervisor at once; its workers end with it."""
        self._may_end = True
        await self.end(signal.SIGKILL, KILLED_SECONDS_MAX)

    async def kill_all(self) -> None:
        """End all its processes, frozen ones too."""
        if not self.ended:
            self.send_all(signal.SIGKILL)
            await self.kill()


@asynccontextmanager
async def own_server() -> AsyncIterator[Server]:
    """Run a server on a free port with databases and data of its own, ready; all of it is gone afterwards."""
    data = Path(tempfile.mkdtemp(prefix="tallystick-own-"))
    log = data.with_suffix(".log")
    server = Server("of its own", {**OWN_SETTINGS, "data_dir": str(data)}, log, Path(tempfile.gettempdir()))
    try:
        server.start()
        try:
            await server.ready()
            yield server
        finally:
            await server.stop()
    finally:
        log.unlink(missing_ok=True)
        shutil.rmtree(data, ignore_errors=True)
