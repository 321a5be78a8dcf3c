"""Servers that requests are sent to: Tallystick itself, the peer, and a handler that does nothing."""

import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.bench.beside import Beside
from loadtests.bench.record import BenchError
from loadtests.client import Client, NoAnswer
from loadtests.openloop.generator import prepare
from loadtests.openloop.workloads import Target
from loadtests.processes import HOST, PROJECT, answers, end, free_port, spawn, tail
from loadtests.servers import WARM_UP_SECONDS, Server

PEER_PYTHON = PROJECT / ".venv-peer" / "bin" / "python"
WARM_PAUSE_SECONDS = 0.5
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
PEER_DATABASE = "peer"
PEER_LIMIT = "1000000/second"
# What has to be so of a peer's books: nothing was made or lost, every balance is what its transfers make it, and no key
# moved money twice, which its constraint sees to. One row, one column.
PEER_AUDIT = """
    SELECT (SELECT coalesce(sum(balance), 0) FROM accounts) = 0
       AND NOT EXISTS (
            SELECT FROM accounts AS a
            LEFT JOIN (
                SELECT id, sum(amount) AS total FROM (
                    SELECT destination AS id, amount FROM transfers UNION ALL SELECT source, -amount FROM transfers
                ) AS sides GROUP BY id
            ) AS s USING (id)
            WHERE a.balance <> coalesce(s.total, 0))
"""


class Tallystick:
    """A server of one's own with accounts in it."""

    def __init__(self, server: Server, target: Target) -> None:
        self.server = server
        self.target = target
        self._began = time.monotonic()

    @classmethod
    async def on(cls, server: Server) -> "Tallystick":
        """Open accounts on a server that has just been started."""
        return cls(server, await ledgers(server, 1))

    async def warm(self) -> None:
        """Return when accounts are read out of Redis."""
        end_at = self._began + WARM_UP_SECONDS
        async with Client(self.server.url, self.target.keys[0]) as client:
            while (left := end_at - time.monotonic()) > 0:
                # Asked now and then: a Redis that nobody asks is not looked at.
                await client.get(f"/v1/accounts/{self.target.accounts[0]}")
                await asyncio.sleep(min(WARM_PAUSE_SECONDS, left))

    async def body(self) -> bytes:
        """Return what a read is answered with."""
        async with Client(self.server.url, self.target.keys[0]) as client:
            return (await client.call("GET", f"/v1/accounts/{self.target.accounts[0]}")).body


async def ledgers(server: Server, count: int) -> Target:
    """Return so many new ledgers, with the same accounts in each."""
    now = time.monotonic_ns()
    return await prepare(server.url, [await server.create_key(f"bench-{now}-{number}") for number in range(count)])


@asynccontextmanager
async def bare(body: bytes) -> AsyncIterator[tuple[Target, int]]:
    """Run a handler that answers always the same; yields where it is and its process."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.bench.bare", str(port), body.decode()]
    async with _running(command, port, "/", os.environ) as pid:
        yield Target(HOST, port, ["none"], []), pid


@asynccontextmanager
async def peer(servers: Beside) -> AsyncIterator[tuple[Target, int]]:
    """Run the peer on databases of its own; yields where it is and its process."""
    await servers.create_database(PEER_DATABASE)
    database = servers.postgres.url(PEER_DATABASE, scheme="postgresql+asyncpg")
    key = secrets.token_urlsafe()
    async with run_peer(database, servers.valkey.url, {key: ("bench", PEER_LIMIT)}) as (url, pid):
        yield await prepare(url, [key]), pid


@asynccontextmanager
async def run_peer(
    database_url: str, redis_url: str, keys: Mapping[str, tuple[str, str]]
) -> AsyncIterator[tuple[str, int]]:
    """
    Run the peer: uvicorn with uvloop and httptools, one worker; yields its address and its process.

    Args:
        database_url: Of an empty database.

        keys: The API keys that it takes, with the ledger and the limit of each.
    """
    port = free_port()
    command = [str(PEER_PYTHON), "-m", "uvicorn", "loadtests.peer.app:app", "--host", HOST, "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    own = {"PEER_DATABASE_URL": database_url, "PEER_REDIS_URL": redis_url, "PEER_KEYS": json.dumps(keys)}
    async with _running(command, port, "/readyz", {**os.environ, **own, "PYTHONPATH": str(PROJECT)}) as pid:
        yield f"http://{HOST}:{port}", pid


@asynccontextmanager
async def _running(command: list[str], port: int, path: str, environment: Mapping[str, str]) -> AsyncIterator[int]:
    with tempfile.NamedTemporaryFile(prefix="tallystick-bench-") as file:
        log = Path(file.name)
        process = spawn(command, log, environment=environment)
        try:
            async with Client(f"http://{HOST}:{port}", "", connections_max=1) as client:

                async def probe() -> bool:
                    return process.poll() is not None or (await client.ask("GET", path)).status == 200

                if not await answers(probe, START_SECONDS_MAX, NoAnswer) or process.poll() is not None:
                    raise BenchError(f"{' '.join(command[1:4])} does not answer:\n{tail(log)}")
            yield process.pid
        finally:
            await end(process, signal.SIGTERM, STOP_SECONDS_MAX)
