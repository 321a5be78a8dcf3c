"""Runs `tallystick serve` as a process, through its command line, as an operator does."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import psutil

from loadtests.client import Client
from loadtests.errors import NotRunError
from loadtests.processes import HOST, PROJECT, Done, Program, answers, family, free_port, run_command, spawn, tail

# The first start creates a database cluster, maybe on a busy machine.
READY_SECONDS_MAX = 180.0
# Limit for a server that has its databases: until then `ready` restarts it if it ends, with this pause.
AGAIN_SECONDS_MAX = 60.0
AGAIN_PAUSE_SECONDS = 0.3
PROBE_SECONDS_MAX = 2.0
# Above the time that the supervisor gives its workers, and the time in which its databases end.
STOP_SECONDS_MAX = 40.0
COMMAND_SECONDS_MAX = 60.0
# An audit adds up every entry of every account.
AUDIT_SECONDS_MAX = 600.0
# A load test measures how fast the ledger posts, not its rate limits.
PLENTY = ("--rate", "1000000/s", "--burst", "1000000", "--concurrency", "100000")
# Seconds until a cache that has just started is read from, and a little more.
WARM_UP_SECONDS = 12.0
WARM_PAUSE_SECONDS = 0.2
# Modules in the command lines of a process that serves, and of the background process.
WORKER, BACKGROUND = "server.process.worker", "server.process.background"
# One worker is measured: beside it, a small machine has room for the generator.
OWN_SETTINGS = {"workers": "1", "admin_port": "0"}


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with these settings of the service and no others."""
    # This server must not write to a database that the caller's environment names.
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    # Use the program of this checkout, even if another is installed.
    inherited["PYTHONPATH"] = str(PROJECT)
    return inherited | {f"TALLYSTICK_{name.upper()}": text for name, text in settings.items()}


def program() -> list[str]:
    """Return the command that runs the service, from a virtual environment that has its packages."""
    for folder in (Path(sys.executable).parent, PROJECT / ".venv" / "bin"):
        if (folder / "tallystick").exists():
            return [str(folder / "python"), "-m", "server.cli"]
    raise NotRunError("there is no tallystick command beside this python; run `make setup`")


async def tallystick(*arguments: str, settings: Mapping[str, str]) -> str:
    done = await run_command([*program(), *arguments], COMMAND_SECONDS_MAX, environment(settings))
    if done.code != 0:
        raise NotRunError(f"tallystick {' '.join(arguments)} ended with code {done.code}:\n{done.last_lines}")
    return done.output.strip()


async def serves(program: Program, url: str, path: str, seconds_max: float) -> bool:
    """Return whether a started program answers a GET with 200 in time and is still running."""
    async with Client(url, "", connections_max=1) as client:

        async def probe() -> bool:
            return program.ended or (await client.ask("GET", path, seconds_max=PROBE_SECONDS_MAX)).status == 200

        return await answers(probe, seconds_max) and not program.ended


class Server(Program):
    """One server, which keeps its address when it is started again."""

    def __init__(self, name: str, settings: Mapping[str, str], log: Path, temporary: Path) -> None:
        super().__init__()
        self.name = name
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        self.log = log
        self.settings = {"host": HOST, "port": str(port), **settings}
        self._temporary = str(temporary)
        self._began = 0.0
        # Whether it may end by itself: it is not ready yet, as while PostgreSQL is down, or it was told to end.
        self._may_end = True

    @property
    def died(self) -> int | None:
        """The exit code of a server that ended though nobody had asked it to."""
        return None if self._may_end else self.code

    async def start(self, **settings: str) -> None:
        """Start it, with these additional settings; it is not ready yet."""
        self._may_end, self._began = True, time.monotonic()
        variables = environment({**self.settings, **settings}) | {"TMPDIR": self._temporary}
        self._process = spawn([*program(), "serve"], self.log, variables)

    async def ready(self, *, again: bool = False) -> None:
        """Return when it is ready; with *again*, restart it if it ends before that."""
        deadline = time.monotonic() + (AGAIN_SECONDS_MAX if again else READY_SECONDS_MAX)
        while not await serves(self, self.url, "/readyz", deadline - time.monotonic()):
            if not again or time.monotonic() > deadline:
                raise NotRunError(f"server {self.name} is not ready; {self.log} says why")
            await asyncio.sleep(AGAIN_PAUSE_SECONDS)
            await self.start()
        self._may_end = False

    async def warm(self, key: str, seconds: float = WARM_UP_SECONDS) -> None:
        """Return when it has run for so long, by default until it reads accounts from Redis."""
        async with Client(self.url, key) as client:
            while (left := self._began + seconds - time.monotonic()) > 0:
                # Send a request now and then, because the server checks Redis only when requests use it.
                await client.ask("GET", "/v1/accounts?limit=1")
                await asyncio.sleep(min(WARM_PAUSE_SECONDS, left))

    async def create_key(self, ledger: str, limits: Sequence[str] = PLENTY) -> str:
        """Return the secret of a new admin key for the ledger, which is created if it does not exist."""
        words = ("--ledger", ledger, "--role", "admin", *limits)
        return await tallystick("keys", "create", *words, settings=self.settings)

    async def audit(self) -> Done:
        return await run_command([*program(), "audit"], AUDIT_SECONDS_MAX, environment(self.settings))

    @property
    def worker(self) -> int:
        return self.process(WORKER)

    def process(self, module: str) -> int:
        """Return the process of the server that runs a module; 0 if there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return next((pid for pid in family(self.pid) if module in psutil.Process(pid).cmdline()), 0)
        return 0

    async def end(self, number: signal.Signals, seconds_max: float) -> bool:
        self._may_end = True
        return await super().end(number, seconds_max)

    async def stop(self) -> int | None:
        return self.code if await self.end(signal.SIGTERM, STOP_SECONDS_MAX) else None


@asynccontextmanager
async def own_server(**settings: str) -> AsyncIterator[Server]:
    """Run a ready server on a free port with new databases and data, and remove all of it afterwards."""
    name = "tallystick-own-"
    with TemporaryDirectory(prefix=name, ignore_cleanup_errors=True) as data, NamedTemporaryFile(prefix=name) as file:
        log = Path(file.name)
        server = Server("of its own", {**OWN_SETTINGS, **settings, "data_dir": data}, log, log.parent)
        try:
            await server.start()
            await server.ready()
            yield server
        except NotRunError as error:
            # The log is removed with the server, and most likely says why it failed.
            raise NotRunError(f"{error}\n{tail(log)}") from error
        finally:
            await server.stop()
