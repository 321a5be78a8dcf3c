"""The cache counts what it does, and detects wrong snapshots."""

import asyncio
import logging
from collections.abc import AsyncIterator
from hashlib import sha256

import orjson
import pytest

from server.ledger.self_check import SAMPLE_EVERY
from server.store.cache import Snapshot
from server.store.cache_counters import CacheCounters
from server.store.keyspace import SNAPSHOT_MS, Keyspace
from server.store.postgres import Database
from server.store.redis import RedisServer
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.waiting import until

LEDGER = "watched"
ALICE = sha256(b"alice").hexdigest()
# Number of concurrent readers.
READERS = 20


@pytest.fixture
async def one(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on a database of its own, with a long timeout for Redis."""
    async with in_process(database_url, redis_url, redis_timeout_ms=250) as service:
        yield service


@pytest.fixture
async def client(one: Service) -> Client:
    """A client of a ledger in which `alice` is at version 2."""
    client = await one.client(LEDGER)
    await client.fund("alice", 100)
    await one.reads_snapshots()
    return client


@pytest.fixture
def counters(one: Service) -> CacheCounters:
    """The service's cache counters."""
    assert one.app is not None
    return one.app.counters


async def read(client: Client, count: int) -> None:
    """Read `alice` so many times."""
    for _ in range(count // READERS):
        await asyncio.gather(*(client.account("alice") for _ in range(READERS)))


async def test_what_is_counted(client: Client, counters: CacheCounters) -> None:
    """
    The counters show a miss and its fill, then hits, then a miss after an acknowledged write; some hits are compared.
    """
    await client.account("alice")
    assert (counters.misses, counters.fills, counters.fills_lost) == (1, 1, 0)
    before = counters.hits
    await client.account("alice")
    assert counters.hits == before + 1
    await client.transfer("world", "alice", 1)
    await client.account("alice")
    assert (counters.misses, counters.fills, counters.pending) == (2, 2, 0)
    while counters.checked < 2:
        await read(client, SAMPLE_EVERY // 10)
    assert counters.hits >= SAMPLE_EVERY * 2
    assert counters.stale == 0


@pytest.mark.parametrize("version", [1, 2, 3], ids=["outdated", "altered", "never committed"])
async def test_a_wrong_snapshot_is_found_and_removed(
    one: Service,
    client: Client,
    counters: CacheCounters,
    caplog: pytest.LogCaptureFixture,
    version: int,
) -> None:
    """A snapshot that keeps contradicting Postgres is counted, logged once, and removed."""
    right = await client.account("alice")
    names = Keyspace()
    async with Database(one.database_url, posting_connections=1, reading_connections=1) as database:
        assert await names.learn(database)
        (ledger,) = await database.read("ledger_by_name", LEDGER)
    redis = RedisServer(one.redis_url, None, 5.0)
    wrong = Snapshot(version, orjson.dumps({**right, "balance": right["balance"] + 1})).packed(names.run)
    await redis.submit(b"", ("SET", names.snapshot(ledger["id"], "alice"), wrong, "PX", 100 * SNAPSHOT_MS))
    await redis.close()
    with caplog.at_level(logging.ERROR, "server.ledger.self_check"):
        await read(client, SAMPLE_EVERY)
        await until(lambda: counters.stale == 1)

        async def right_again() -> bool:
            return bool(await client.account("alice") == right)

        await until(right_again)
    (told,) = caplog.messages
    assert f"ledger {ledger['id']}, account with the SHA-256 {ALICE}, version {version} where 2 is" in told
