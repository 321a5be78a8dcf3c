"""Runs the service in the test's own process on a real socket, or as a separate process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp
from aiohttp import web

from loadtests.processes import free_port
from server.app import App, create_app
from server.books import Books, create_books
from server.gate.key_store import KeyLimit, create_key
from server.settings import Settings
from server.store.postgres import Database
from server.store.redis_connections import QUARANTINE_SECONDS
from tests.support.client import Client
from tests.support.listening import end
from tests.support.postgres import create_database, drop_database
from tests.support.waiting import until

# Seconds a server process has to become ready, and to stop.
START_SECONDS = 60.0
STOP_SECONDS = 15.0
# Seconds between two checks whether it is ready.
ASK_SECONDS = 0.05


# Seconds after which something that must not hang counts as hanging, even on a machine that is busy with other tests.
BOUND_SECONDS = 5.0
# Time-out of Redis. It is long, so that a slow answer on a machine busy with tests does not count as an outage.
REDIS_PATIENCE_MS = 2_000
# A Fernet key, and the networks that webhooks may go to: tests send them to themselves.
WEBHOOK_KEY = "a" * 42 + "A="
LOOPBACK = "127.0.0.0/8"
# No server listens there, so the service runs without Redis.
NO_REDIS = "redis://127.0.0.1:1"
# A limit that tests of other features do not reach.
PLENTY = KeyLimit(1_000_000, 1, 1_000_000, 100_000)


class Service(NamedTuple):
    """A running service and its addresses."""

    url: str
    database_url: str
    redis_url: str
    session: aiohttp.ClientSession
    app: App | None = None

    async def client(self, ledger: str, role: str = "admin", limit: KeyLimit = PLENTY) -> Client:
        """Return a client with a new key of a ledger; the key is made on a connection of the service if it has one."""
        if self.app is None:
            return Client(self.session, self.url, await make_key(self.database_url, ledger, role, limit))
        return Client(self.session, self.url, await create_key(self.app.database, ledger, role, limit))

    async def reads_snapshots(self) -> None:
        """Wait until it reads accounts from its Redis, which must have been up for a while and used before."""
        assert self.app is not None
        redis = self.app.redis
        await until(lambda: redis.serves_snapshots(b""), 2 * QUARANTINE_SECONDS)


def leader_books(service: Service) -> AbstractAsyncContextManager[Books]:
    """Return the books as the background process makes them, on the databases of a service."""
    settings = Settings(
        database_url=service.database_url,
        redis_url=service.redis_url,
        redis_timeout_ms=REDIS_PATIENCE_MS,
        posting_connections=2,
        reading_connections=2,
    )
    return create_books(settings)


async def make_key(database_url: str, ledger: str, role: str = "admin", limit: KeyLimit = PLENTY) -> str:
    """Make a key as `tallystick keys create` does."""
    async with Database(database_url, posting_connections=1, reading_connections=1) as database:
        return await create_key(database, ledger, role, limit)


@asynccontextmanager
async def in_process(database_url: str, redis_url: str = NO_REDIS, **settings: object) -> AsyncIterator[Service]:
    """
    Serve from this process and event loop, on a free port.

    Limits by address are high, because all requests of a test come from one address.

    Args:
        settings: Settings by name; `workers` is the number of workers that the service believes there are.
    """
    workers = int(str(settings.pop("workers", 1)))
    patience = {
        "auth_failure_rate": "1000000/s",
        "auth_failure_burst": 1_000_000,
        "anonymous_rate": "1000000/s",
        "anonymous_burst": 1_000_000,
        "redis_timeout_ms": REDIS_PATIENCE_MS,
        "webhook_key": WEBHOOK_KEY,
        "webhook_private_networks": LOOPBACK,
    }
    settings = {**patience, **settings}
    async with (
        create_app(Settings(database_url=database_url, redis_url=redis_url, **settings), workers) as app,  # type: ignore[arg-type]  # few, by name
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        runner = web.ServerRunner(app.server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield Service(f"http://127.0.0.1:{runner.addresses[0][1]}", database_url, redis_url, session, app)
        finally:
            await end(runner)


class ServerProcess:
    """
    `tallystick serve` as a child process.

    Args:
        database_url: The address of Postgres.

        log: The file for its standard error.

        environment: More environment variables.

        redis_url: The address of Redis; by default Redis is unavailable.

        module: The program, run with the arguments of `tallystick serve`.
    """

    def __init__(
        self,
        database_url: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        redis_url: str = NO_REDIS,
        module: str = "server.cli",
    ) -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self.port = free_port()
        self.admin_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self._log = log
        self._module = module
        self.environment = {
            "TALLYSTICK_ADMIN_PORT": str(self.admin_port),
            "TALLYSTICK_WORKERS": "1",
            # Most tests do not need a background process.
            "TALLYSTICK_BACKGROUND": "false",
            "TALLYSTICK_DATABASE_URL": self.database_url,
            "TALLYSTICK_REDIS_URL": self.redis_url,
            "TALLYSTICK_REDIS_TIMEOUT_MS": str(REDIS_PATIENCE_MS),
            # High limits, because all requests of a test come from one address.
            "TALLYSTICK_ANONYMOUS_RATE": "1000000/s",
            "TALLYSTICK_ANONYMOUS_BURST": "1000000",
            **(environment or {}),
        }
        self._child: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The id of the child, which is the supervisor."""
        assert self._child is not None
        return self._child.pid

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ServerProcess"]:
        """Start it, and stop it with the block."""
        try:
            await self.start()
            yield self
        finally:
            await self.stop()

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it is ready."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TALLYSTICK_")}
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", self._module, "serve", "--port", str(self.port)),
                env={**inherited, **self.environment, **(environment or {})},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
            while True:
                if self._child.returncode is not None:
                    raise AssertionError(f"the server ended: {self._log.read_text()[-2000:]}")
                try:
                    async with session.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(ASK_SECONDS)

    async def reports(self) -> list[dict[str, Any]]:
        """Return what its admin port reports about each worker."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/readyz") as response:
            return cast(list[dict[str, Any]], (await response.json())["workers"])

    async def workers(self) -> list[int]:
        """Wait until all workers serve and are ready, and return their process ids."""
        found: list[dict[str, Any]] = []

        async def all_serve() -> bool:
            found[:] = await self.reports()
            return all(report["state"] == "serving" and not report["failures"] for report in found)

        await until(all_serve, START_SECONDS)
        return [report["pid"] for report in found]

    def log_text(self) -> str:
        """Return the log, including that of earlier servers with the same file."""
        return self._log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the supervisor; if it is killed, its workers end too."""
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code; this sends no signal."""
        assert self._child is not None
        return await asyncio.wait_for(self._child.wait(), STOP_SECONDS)

    async def stop(self) -> None:
        """End it, gracefully if possible, and wait until it is gone."""
        if self._child is None or self._child.returncode is not None:
            return
        try:
            self.kill(signal.SIGTERM)
            await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()


@asynccontextmanager
async def shared_server(
    template: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    redis_url: str = NO_REDIS,
    module: str = "server.cli",
) -> AsyncIterator[ServerProcess]:
    """Run a server process on a new database, for several tests; the arguments are those of `ServerProcess`."""
    database_url = await create_database(template)
    try:
        async with ServerProcess(database_url, log, environment, redis_url, module).running() as server:
            yield server
    finally:
        await drop_database(template, database_url)
