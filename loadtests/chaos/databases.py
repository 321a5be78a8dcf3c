"""A PostgreSQL and a Valkey that may be broken in every way and started again."""

import asyncio
import contextlib
import signal
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from loadtests.chaos.processes import children, database_account, ended, postgres_program, send, spawn, valkey_program
from loadtests.own_server import ServerError
from server.process.embedded.nameless import initdb_for

USER, PORT, NAME = "postgres", 5432, "tallystick"
# initdb, or reading back the log after a crash, on a busy machine.
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 10.0
# One command of ours; a database that is frozen is not asked.
ASK_SECONDS_MAX = 5.0
POLL_SECONDS = 0.05
# Durable like the real one; small, because it shares a machine with everything else.
POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "lc_messages": "C",
    "log_min_error_statement": "panic",
}
# What the service's own embedded Valkey has; the memory is large enough that nothing is evicted unless that is wanted.
VALKEY_SETTINGS = {
    "port": "0",
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "volatile-lru",
    "loglevel": "notice",
}


class Postgres:
    """
    One PostgreSQL, whose files are new.

    Args:
        folder: For its files and its socket; it must not exist.

        log: Takes what it says.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.socket = folder / f".s.PGSQL.{PORT}"
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        self._account = database_account(folder)

    def url(self, folder: Path) -> str:
        """Return its address through the socket in a folder."""
        return f"postgresql://{USER}@/{NAME}?host={folder}&port={PORT}"

    async def make(self) -> None:
        """Make its files, start it, and make the database."""
        options = (f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions")
        with initdb_for(self._account, self._folder) as program:
            command: list[str | Path] = [program, "-D", self._folder / "data", "--no-sync", *options]
            process = spawn(command, self._log, folder=self._folder, account=self._account)
            if not await ended(process, START_SECONDS_MAX) or process.returncode != 0:
                process.kill()
                raise ServerError(f"initdb failed; {self._log} says why")
        await self.start()
        await self.ask(f"CREATE DATABASE {NAME}", database="postgres")

    async def start(self) -> None:
        """
        Start it and return when it answers; sessions of one that was killed may be in its way for a while.

        Raises:
            ServerError: It does not, in time.
        """
        deadline = asyncio.get_running_loop().time() + START_SECONDS_MAX
        settings = {**POSTGRES_SETTINGS, "port": str(PORT), "unix_socket_directories": str(self._folder)}
        command: list[str | Path] = [postgres_program("postgres"), "-D", self._folder / "data"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        while asyncio.get_running_loop().time() < deadline:
            if self._process is None or self._process.poll() is not None:
                # SIGQUIT: immediate shutdown; nobody will want its data.
                place, account = self._folder, self._account
                self._process = spawn(command, self._log, folder=place, account=account, death_signal=signal.SIGQUIT)
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await self.ask("SELECT 1", database="postgres")
                return
            await asyncio.sleep(POLL_SECONDS)
        raise ServerError(f"PostgreSQL does not answer; {self._log} says why")

    async def ask(self, statement: str, *arguments: object, database: str = NAME) -> list[Any]:
        """
        Run one statement on a session of its own, past all proxies.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: It cannot be run.
        """
        async with asyncio.timeout(ASK_SECONDS_MAX):
            connection = await asyncpg.connect(
                host=str(self._folder), port=PORT, user=USER, database=database, server_settings={"lock_timeout": "0"}
            )
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                connection.terminate()

    async def end(self, number: signal.Signals) -> None:
        """End the whole server by a signal and wait until it is gone."""
        assert self._process is not None
        send(self._process.pid, number)
        if not await ended(self._process, STOP_SECONDS_MAX):
            self._process.kill()
            await ended(self._process, STOP_SECONDS_MAX)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to the server and to all its sessions."""
        assert self._process is not None
        for pid in (self._process.pid, *children(self._process.pid)):
            send(pid, number)

    async def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.send_all(signal.SIGCONT)
            await self.end(signal.SIGQUIT)


class Valkey:
    """
    One Valkey.

    Args:
        folder: For its socket; it must exist.

        log: Takes what it says.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.socket = folder / "valkey.sock"
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """
        Start it, empty, and return when it answers.

        Raises:
            ServerError: It does not.
        """
        self.socket.unlink(missing_ok=True)
        settings = {**VALKEY_SETTINGS, "unixsocket": str(self.socket)}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = spawn([valkey_program(), *words], self._log, folder=self._folder)
        deadline = asyncio.get_running_loop().time() + START_SECONDS_MAX
        while asyncio.get_running_loop().time() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, RedisError, TimeoutError):
                await self.ask("PING")
                return
            await asyncio.sleep(POLL_SECONDS)
        raise ServerError(f"Valkey does not answer; {self._log} says why")

    async def ask(self, *command: str) -> Any:
        """
        Send it a command on a connection of its own, past all proxies.

        Raises:
            OSError, TimeoutError, RedisError: It is not answered.
        """
        async with asyncio.timeout(ASK_SECONDS_MAX), Redis(unix_socket_path=str(self.socket)) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # of redis-py

    async def configure(self, **settings: str) -> None:
        """Change settings."""
        for name, value in settings.items():
            await self.ask("CONFIG", "SET", name.replace("_", "-"), value)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        send(self._process.pid, number)

    async def kill(self) -> None:
        """End it at once, with all that it holds."""
        if self._process is not None:
            self._process.kill()
            await ended(self._process, STOP_SECONDS_MAX)
