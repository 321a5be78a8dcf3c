"""Servers that requests are sent to: Tallystick itself, the peer, and a handler that does nothing; and pgbench."""

import json
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from loadtests.bench.fill import new_keys, statement
from loadtests.databases import Databases, programs
from loadtests.errors import NotRunError
from loadtests.figures import Run, quantile
from loadtests.openloop.generator import ACCOUNTS, account_names, prepare
from loadtests.openloop.workloads import Target
from loadtests.processes import HOST, PROJECT, Program, cpu_times, cpu_used, free_port, run_command, spawn, tail
from loadtests.servers import Server, serves

PEER_PYTHON = PROJECT / ".venv-peer" / "bin" / "python"
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
# pgbench fills two million rows into its largest table and then runs a vacuum.
PGBENCH_SECONDS_MAX = 300.0
# The fewest accounts of each ledger when there are many ledgers.
ACCOUNTS_MIN = 4
PEER_DATABASE, LEDGER = "peer", "bench"
PEER_LIMIT = "1000000/second"


class Tallystick(NamedTuple):
    """
    A server started for this run that reads from its cache, the databases that it has started, and a ledger in it.
    """

    server: Server
    databases: Databases
    target: Target

    async def spread_over(self, ledgers: int, keys: int) -> Target:
        """Return new ledgers, which share the usual number of accounts between them, and new keys for them."""
        made = await new_keys(self.databases.postgres.url(), ledgers, keys)
        target = await prepare(self.server.url, made[:ledgers], max(ACCOUNTS_MIN, ACCOUNTS // ledgers))
        return target._replace(keys=made, ledgers=ledgers, roots=self.target.roots)


@asynccontextmanager
async def beside() -> AsyncIterator[Databases]:
    """Start PostgreSQL and Valkey as a server embeds them; they and their data are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tallystick-beside-", ignore_cleanup_errors=True) as folder:
        databases = Databases(Path(folder))
        try:
            await databases.start()
            yield databases
        finally:
            await databases.close()


async def pgbench(databases: Databases, name: str, *arguments: str) -> str:
    command: list[str | Path] = [
        programs()["PostgreSQL"].with_name("pgbench"),
        *arguments,
        databases.postgres.url(name),
    ]
    done = await run_command(command, PGBENCH_SECONDS_MAX)
    if done.code != 0:
        raise NotRunError(f"pgbench failed:\n{done.last_lines}")
    return done.output


async def transactions(
    databases: Databases, seconds: float, name: str, clients: int, *, rows: int = 1, script: str = ""
) -> Run:
    """Run pgbench clients that send prepared transactions; figures count their rows."""
    roots = [databases.postgres.pid]
    before = cpu_times(roots)
    with tempfile.TemporaryDirectory(prefix="tallystick-pgbench-") as path:
        folder = Path(path)
        words = ["-n", "-M", "prepared", "-c", str(clients), "-T", str(max(1, round(seconds))), "-l"]
        if script:
            (folder / "script").write_text(script, encoding="utf-8")
            words += ["-f", str(folder / "script")]
        text = await pgbench(databases, name, *words, f"--log-prefix={folder}/log")
        times = _transaction_times(folder)
    cpu = cpu_used(before, cpu_times(roots))
    rate = re.search(r"tps = ([\d.]+)", text)
    if rate is None:
        raise NotRunError(f"pgbench printed no rate:\n{text[-500:]}")
    figures = {"per_second": float(rate[1]) * rows, "p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}
    return {"connections": clients, "seconds": seconds, **figures, "cpu": cpu}


def _transaction_times(folder: Path) -> list[float]:
    """
    Return the milliseconds of all transactions, in order; the third word of a line of pgbench's log is microseconds.
    """
    lines = [line for log in folder.glob("log*") for line in log.read_text(encoding="ascii").splitlines()]
    return sorted(float(line.split()[2]) / 1e3 for line in lines)


@asynccontextmanager
async def bare() -> AsyncIterator[Target]:
    port = free_port()
    command = [sys.executable, "-m", "loadtests.bench.bare", str(port)]
    async with _running(command, port, "/", os.environ) as pid:
        yield Target(f"http://{HOST}:{port}", ["none"], [], roots=(pid,))


@asynccontextmanager
async def peer(databases: Databases) -> AsyncIterator[Target]:
    await databases.postgres.make(PEER_DATABASE)
    database = databases.postgres.url(PEER_DATABASE, scheme="postgresql+asyncpg")
    key = secrets.token_urlsafe()
    async with run_peer(database, databases.valkey.url, {key: (LEDGER, PEER_LIMIT)}) as (url, pid):
        roots = (pid, databases.postgres.pid, databases.valkey.pid)
        target = Target(url, [key], account_names(ACCOUNTS), roots=roots)
        floors = [None] * ACCOUNTS
        await databases.postgres.ask(statement("peer_accounts"), LEDGER, target.accounts, floors, name=PEER_DATABASE)
        yield target


@asynccontextmanager
async def run_peer(
    database_url: str, redis_url: str, keys: Mapping[str, tuple[str, str]]
) -> AsyncIterator[tuple[str, int]]:
    """Run the peer, one worker, with API keys that each have a ledger and a limit; yields address and process."""
    port = free_port()
    command = [str(PEER_PYTHON), "-m", "uvicorn", "loadtests.peer:app", "--host", HOST, "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    own = {"PEER_DATABASE_URL": database_url, "PEER_REDIS_URL": redis_url, "PEER_KEYS": json.dumps(keys)}
    async with _running(command, port, "/openapi.json", {**os.environ, **own, "PYTHONPATH": str(PROJECT)}) as pid:
        yield f"http://{HOST}:{port}", pid


@asynccontextmanager
async def _running(command: list[str], port: int, path: str, environment: Mapping[str, str]) -> AsyncIterator[int]:
    with tempfile.NamedTemporaryFile(prefix="tallystick-bench-") as file:
        log = Path(file.name)
        program = Program(spawn(command, log, environment))
        try:
            if not await serves(program, f"http://{HOST}:{port}", path, START_SECONDS_MAX):
                raise NotRunError(f"{' '.join(command[1:4])} does not answer:\n{tail(log)}")
            yield program.pid
        finally:
            await program.end(signal.SIGTERM, STOP_SECONDS_MAX)
