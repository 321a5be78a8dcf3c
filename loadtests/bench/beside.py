"""
PostgreSQL and Valkey for everything that Tallystick is compared with.

They are the same programs with the same settings as those of the server that is measured, read off its processes, with
data of their own.
"""

import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis

from loadtests.bench.record import BenchError
from loadtests.databases import Postgres, Valkey
from loadtests.process_table import command_line
from loadtests.processes import run_command
from loadtests.servers import Server

# Settings that name a place, and one that would write a log that nobody reads.
PLACES = ("port", "unix_socket_directories", "log_directory", "logging_collector")
# What is not worth saying of the settings.
UNSAID = ("log_", "port", "unix_socket", "listen", "password")
VALKEY_SETTINGS = ("save", "appendonly", "maxmemory", "maxmemory-policy", "maxclients")
# pgbench fills two million rows in its largest table; a vacuum is part of it.
PGBENCH_SECONDS_MAX = 300.0


class Beside(NamedTuple):
    """Running databases beside those of the server that is measured."""

    postgres: Postgres
    valkey: Valkey

    async def create_database(self, name: str) -> None:
        """Make an empty database."""
        # A name of ours; a statement that makes a database takes no parameters.
        await self.postgres.ask("postgres", f'CREATE DATABASE "{name}"')

    async def pgbench(self, database: str, *arguments: str) -> str:
        """
        Run pgbench and return its output.

        Raises:
            BenchError: It failed.
        """
        program = self.postgres.postgres_program.with_name("pgbench")
        command = [str(program), "-h", str(self.postgres.folder), "-U", "postgres", *arguments, database]
        done = await run_command(command, PGBENCH_SECONDS_MAX)
        if done.code != 0:
            raise BenchError(f"pgbench failed:\n{done.last_lines}")
        return done.output

    async def pgbench_rate(self, database: str, seconds: float, *arguments: str, clients: int) -> tuple[float, float]:
        """Return transactions a second and milliseconds of one, of prepared statements."""
        words = ("-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds))))
        text = await self.pgbench(database, *words, *arguments)
        rate, latency = re.search(r"tps = ([\d.]+)", text), re.search(r"latency average = ([\d.]+)", text)
        if rate is None or latency is None:
            raise BenchError(f"pgbench printed no rate:\n{text[-500:]}")
        return float(rate[1]), float(latency[1])


def _told(server: Server, name: str) -> list[str]:
    for pid in server.family():
        words = command_line(pid)
        # Valkey writes its socket behind its name, as one word.
        if words and Path(words[0].split()[0]).name == name:
            return words
    raise BenchError(f"the server has started no {name}")


def _postgres_settings(server: Server) -> dict[str, str]:
    """Return what the PostgreSQL of a server of one's own is told, by name."""
    words = _told(server, "postgres")
    return dict(word[2:].split("=", 1) for word in words if word.startswith("--"))


def settings_of(server: Server) -> str:
    """Return what the PostgreSQL of a server of one's own is told, but for places and logs."""
    told = _postgres_settings(server).items()
    return ", ".join(f"{name}={value}" for name, value in told if name not in PLACES and not name.startswith(UNSAID))


def own_database_url(server: Server) -> str:
    """Return the address of the database of a server of one's own."""
    words = _told(server, "postgres")
    passfile = Path(words[words.index("-D") + 1]).with_name("postgres.pgpass")
    sockets = _postgres_settings(server)["unix_socket_directories"]
    return f"postgresql://postgres@/tallystick?host={sockets}&passfile={passfile}"


def own_valkey(server: Server) -> Redis:
    """Return a client of the Valkey of a server of one's own."""
    socket = " ".join(_told(server, "valkey-server")).split()[1].removeprefix("unixsocket:")
    return Redis(unix_socket_path=socket, socket_timeout=5)


@asynccontextmanager
async def beside(server: Server) -> AsyncIterator[Beside]:
    """Start both; they and their data are gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="tallystick-beside-"))
    try:
        settings = {name: value for name, value in _postgres_settings(server).items() if name not in PLACES}
        async with own_valkey(server) as client:
            cache = await client.config_get(*VALKEY_SETTINGS)
        # Compared with nobody outside, so only sockets, in folders that nobody else can enter.
        postgres = Postgres(home / "p", home / "log", settings)
        valkey = Valkey(home / "v", home / "log", {str(name): str(value) for name, value in cache.items()})
        try:
            await postgres.make()
            await valkey.start()
            yield Beside(postgres, valkey)
        finally:
            await valkey.close()
            await postgres.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
