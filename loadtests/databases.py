"""Runs a separate PostgreSQL and Valkey as the service embeds them; tests may break them and start them again."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from loadtests.errors import NotRunError
from loadtests.processes import Program, answers
from server.process.embedded import postgres, valkey
from server.process.embedded.binaries import postgres_bin, valkey_bin
from server.process.embedded.directory import DataDirectory
from server.process.embedded.errors import EmbeddedError
from server.process.embedded.postgres_settings import SETTINGS

# Seconds for recovery after a crash, on a busy machine.
START_SECONDS_MAX = 60.0
# Seconds for one command of a load test, which asks no frozen database.
ASK_SECONDS_MAX = 5.0
# Settings that are left out of the report.
UNSAID = ("log_", "logging_", "listen", "unix_socket", "password")


def settings_told() -> str:
    return ", ".join(f"{name}={value}" for name, value in SETTINGS.items() if not name.startswith(UNSAID))


def programs() -> dict[str, Path]:
    try:
        return {"PostgreSQL": postgres_bin("postgres"), "Valkey": valkey_bin()}
    except EmbeddedError as error:
        raise NotRunError(str(error)) from error


class Postgres(Program):
    # Immediate shutdown.
    DEATH = signal.SIGQUIT
    DATABASE = postgres.DATABASE

    def __init__(self, directory: DataDirectory, sockets: Path) -> None:
        super().__init__()
        self._server = postgres.Postgres(directory, sockets)
        self.socket = sockets / postgres.SOCKET

    def url(self, name: str = postgres.DATABASE, folder: Path | None = None, scheme: str = "postgresql") -> str:
        """Return the address of a database through the socket in *folder*, by default the server's own."""
        place = f"host={folder or self.socket.parent}&port={postgres.PORT}&passfile={self._server.passfile}"
        return f"{scheme}://{postgres.USER}@/{name}?{place}"

    async def start(self) -> None:
        """Start the server and return when it answers; sessions of a killed one may delay it."""

        async def probe() -> list[Any]:
            if self.ended:
                self._process = self._server.start()
            return await self.ask("SELECT 1", name="postgres")

        if not await answers(probe, START_SECONDS_MAX, asyncpg.PostgresError, asyncpg.InterfaceError):
            raise NotRunError("PostgreSQL does not answer")

    async def make(self, name: str) -> None:
        # The name is ours; CREATE DATABASE takes no parameters.
        await self.ask(f'CREATE DATABASE "{name}"', name="postgres")

    async def ask(self, statement: str, *arguments: object, name: str = postgres.DATABASE) -> list[Any]:
        """Run one statement in a database, on a new session that bypasses the proxies."""
        async with asyncio.timeout(ASK_SECONDS_MAX):
            connection = await asyncpg.connect(self.url(name), server_settings={"lock_timeout": "0"})
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                connection.terminate()


class Valkey(Program):
    def __init__(self, directory: DataDirectory, sockets: Path) -> None:
        super().__init__()
        self._server = valkey.Valkey(directory, sockets)
        self.socket = self._server.socket
        self.url = f"unix://{self.socket}"

    async def start(self) -> None:
        """Start the server, empty, and return when it answers."""
        self._process = self._server.start()

        async def probe() -> bool:
            return self.ended or bool(await self.ask("PING"))

        if not await answers(probe, START_SECONDS_MAX, RedisError) or self.ended:
            raise NotRunError("Valkey does not answer")

    async def ask(self, *command: str) -> Any:
        """Send a command on a new connection that bypasses the proxies."""
        async with asyncio.timeout(ASK_SECONDS_MAX), Redis(unix_socket_path=str(self.socket)) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # of redis-py


class Databases:
    def __init__(self, folder: Path) -> None:
        try:
            directory = DataDirectory.prepare(folder, *programs().values())
            with directory.locked():
                directory.adopt()
                sockets = directory.sockets()
        except EmbeddedError as error:
            raise NotRunError(str(error)) from error
        self.logs = directory.logs
        self.postgres, self.valkey = Postgres(directory, sockets), Valkey(directory, sockets)

    async def start(self) -> None:
        await self.postgres.start()
        await self.valkey.start()

    async def close(self) -> None:
        await self.valkey.close()
        await self.postgres.close()
