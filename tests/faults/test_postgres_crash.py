"""Postgres crashes under load, or is away when the service starts."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from server.store.migrations import migrate
from tests.support.client import Client
from tests.support.history import History
from tests.support.own_postgres import OwnPostgres
from tests.support.service import ServerProcess, in_process, make_key
from tests.support.waiting import WAIT_SECONDS, until

LEDGER = "crash"


class Served(NamedTuple):
    """A server process on a Postgres that may crash, a client and its history, and the server's log."""

    client: Client
    history: History
    log: Path


@pytest.fixture
async def served(own_postgres: OwnPostgres, tmp_path: Path) -> AsyncIterator[Served]:
    """A server process in which `alice` has money and `bob` has none."""
    await migrate(own_postgres.database_url)
    log = tmp_path / "server.log"
    server = ServerProcess(own_postgres.database_url, log)
    token = await make_key(own_postgres.database_url, LEDGER)
    try:
        await server.start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client = Client(session, server.url, token)
            await client.fund("alice", 100_000)
            await client.open("bob")
            yield Served(client, History(own_postgres.database_url, LEDGER), log)
    finally:
        await server.stop()


async def test_postgres_crashes_under_load(own_postgres: OwnPostgres, served: Served) -> None:
    """After crashes while clients retry, every acknowledged transfer survives, and none is posted twice."""
    client, history, log = served
    stop = asyncio.Event()
    acknowledged = 0

    def reached(goal: int) -> bool:
        return acknowledged >= goal

    async def insist(number: int) -> None:
        nonlocal acknowledged
        count = 0
        while not stop.is_set():
            await history.insist(client, f"work-{number}-{count}", "alice", "bob", 1)
            acknowledged += 1
            count += 1

    workers = asyncio.gather(*(insist(number) for number in range(16)))

    def troubled() -> bool:
        return history.count("unknown", "not_applied") > 0

    # Postgres is first away for a moment, which clients need not notice, and then for longer than the deadline.
    await until(partial(reached, 100))
    await own_postgres.crash()
    own_postgres.start()
    await until(partial(reached, 200))
    await own_postgres.crash()
    await until(troubled)
    own_postgres.start()
    await until(partial(reached, 300))
    stop.set()
    async with asyncio.timeout(WAIT_SECONDS):
        await workers
    assert log.read_text().count("postgres failed") >= 2
    assert await client.balance("bob") == acknowledged
    await history.settle(client)
    await history.check()


async def test_postgres_is_not_there_at_the_start(own_postgres: OwnPostgres) -> None:
    """Without Postgres the service starts, says why it is not ready, refuses writes, and becomes ready by itself."""
    await migrate(own_postgres.database_url)
    token = await make_key(own_postgres.database_url, LEDGER)
    await own_postgres.crash()
    async with in_process(own_postgres.database_url) as service:
        client = Client(service.session, service.url, token)
        ready = await client.get("/readyz")
        assert (ready.status, ready.code) == (503, "not_ready")
        assert ready.json["failures"] == ["Postgres cannot be reached"]
        assert (await client.get("/livez")).status == 200
        refused = await client.transfer("world", "alice", 1, "early")
        assert (refused.status, refused.json["outcome"], refused.json["retry"]) == (503, "not_applied", "same_key")
        own_postgres.start()

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status == 200

        await until(is_ready)
        await client.fund("alice", 5)
        assert (await client.transfer("alice", "world", 5, "early")).status == 201
