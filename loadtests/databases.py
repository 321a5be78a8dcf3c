"""A PostgreSQL and a Valkey of one's own: they may be broken in every way and started again."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from loadtests.process_table import family
from loadtests.processes import ServerError, answers, end, ended, send, spawn
from server.process.embedded import EmbeddedError
from server.process.embedded.account import account_for, reaching
from server.process.embedded.binaries import postgres_bin, valkey_bin
from server.process.embedded.child import prepared
from server.process.embedded.nameless import initdb_for

USER, PORT = "postgres", 5432
# initdb, or reading back the log after a crash, on a busy machine.
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 10.0
# One command of ours; a database that is frozen is not asked.
ASK_SECONDS_MAX = 5.0
# The only variables that databases get: no PG* variable may steer them.
PASSED_ON = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
INITDB = (f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions")
INITDB_LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


class _Database:
    """A program with files in a folder that only the user who runs it can read."""

    DEATH = signal.SIGKILL

    def __init__(self, folder: Path, log: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self._log = log
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700, exist_ok=True)
        # Nobody else than us, unless we are root, which PostgreSQL refuses to be.
        try:
            self.postgres_program, self.valkey_program = postgres_bin("postgres"), valkey_bin()
            self._account = reaching(account_for(folder), folder, self.postgres_program)
        except EmbeddedError as error:
            raise ServerError(str(error)) from error
        if self._account.foreign:
            os.chown(folder, self._account.uid, self._account.gid)

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    def _spawn(self, command: list[str | Path]) -> "subprocess.Popen[bytes]":
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
        child = prepared(self._account, self.DEATH)
        return spawn(command, self._log, folder=self.folder, environment=variables, prepared=child)

    def _words(self, **more: str) -> list[str | Path]:
        return [f"--{name}={value}" for name, value in {**self._settings, **more}.items()]

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        for pid in family(self.pid):
            send(pid, number)

    async def end(self, number: signal.Signals) -> None:
        """End it by a signal and wait until it is gone."""
        if self._process is not None:
            await end(self._process, number, STOP_SECONDS_MAX)

    async def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.send_all(signal.SIGCONT)
            # At once: nobody will want its data.
            await self.end(self.DEATH)


class Postgres(_Database):
    """
    One PostgreSQL, whose files are new.

    Args:
        folder: For its files and its socket.

        log: Takes what it says.

        settings: By name.
    """

    # Immediate shutdown.
    DEATH = signal.SIGQUIT

    @property
    def socket(self) -> Path:
        """Of its socket, the path."""
        return self.folder / f".s.PGSQL.{PORT}"

    def url(self, name: str, folder: Path | None = None, scheme: str = "postgresql") -> str:
        """Return the address of a database through the socket in a folder, by default its own."""
        return f"{scheme}://{USER}@/{name}?host={folder or self.folder}&port={PORT}"

    async def make(self, *names: str) -> None:
        """Make its files, start it, and make databases."""
        with initdb_for(self._account, self.folder) as program:
            command: list[str | Path] = [program, "-D", self.folder / "data", *INITDB, *INITDB_LOCALE]
            process = self._spawn(command)
            if not await ended(process, START_SECONDS_MAX) or process.returncode != 0:
                process.kill()
                raise ServerError(f"initdb failed; {self._log} says why")
        await self.start()
        for name in names:
            # A name of ours; a statement that makes a database takes no parameters.
            await self.ask("postgres", f'CREATE DATABASE "{name}"')

    async def start(self) -> None:
        """
        Start it and return when it answers; sessions of one that was killed may be in its way for a while.

        Raises:
            ServerError: It does not, in time.
        """
        places = {"port": str(PORT), "unix_socket_directories": str(self.folder)}
        command = [self.postgres_program, "-D", self.folder / "data", *self._words(**places)]

        async def probe() -> list[Any]:
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn(command)
            return await self.ask("postgres", "SELECT 1")

        if not await answers(probe, START_SECONDS_MAX, asyncpg.PostgresError, asyncpg.InterfaceError):
            raise ServerError(f"PostgreSQL does not answer; {self._log} says why")

    async def ask(self, name: str, statement: str, *arguments: object) -> list[Any]:
        """
        Run one statement in a database on a session of its own, past all proxies.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: It cannot be run.
        """
        async with asyncio.timeout(ASK_SECONDS_MAX):
            connection = await asyncpg.connect(
                host=str(self.folder), port=PORT, user=USER, database=name, server_settings={"lock_timeout": "0"}
            )
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                connection.terminate()


class Valkey(_Database):
    """
    One Valkey.

    Args:
        folder: For its socket.

        log: Takes what it says.

        settings: By name.
    """

    @property
    def socket(self) -> Path:
        """Of its socket, the path."""
        return self.folder / "valkey.sock"

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """
        Start it, empty, and return when it answers.

        Raises:
            ServerError: It does not.
        """
        self.socket.unlink(missing_ok=True)
        settings = {**self._settings, "port": "0", "unixsocket": str(self.socket)}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        process = self._process = self._spawn([self.valkey_program, *words])

        async def probe() -> bool:
            return process.poll() is not None or bool(await self.ask("PING"))

        if not await answers(probe, START_SECONDS_MAX, RedisError) or process.poll() is not None:
            raise ServerError(f"Valkey does not answer; {self._log} says why")

    async def ask(self, *command: str) -> Any:
        """
        Send it a command on a connection of its own, past all proxies.

        Raises:
            OSError, TimeoutError, RedisError: It is not answered.
        """
        async with asyncio.timeout(ASK_SECONDS_MAX), Redis(unix_socket_path=str(self.socket)) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # of redis-py
