"""Answers from Redis equal those of Postgres, and need no Postgres."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from server.ledger import batch_poster
from server.store.keyspace import Keyspace
from server.store.postgres import Database
from server.store.redis import RedisServer
from tests.support.client import Client
from tests.support.clock import moved_clock
from tests.support.locks import inserts_held, somebody_waits
from tests.support.postgres import administer, create_database
from tests.support.service import Service, in_process
from tests.support.waiting import until

LEDGER = "served"


@pytest.fixture
async def one(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on a database of its own."""
    async with in_process(database_url, redis_url) as service:
        yield service


@pytest.fixture
async def client(one: Service) -> Client:
    """A client of a ledger in which `alice` has 100."""
    client = await one.client(LEDGER)
    await client.fund("alice", 100)
    await client.open("bob")
    await one.reads_snapshots()
    return client


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisServer]:
    """The Redis of the service."""
    server = RedisServer(redis_url, None, 5.0)
    yield server
    await server.close()


async def locked_out(one: Service) -> None:
    """Revoke the service's right to read, so that Postgres answers none of its queries."""
    for table in ("accounts", "transfers"):
        await administer(one.database_url, f"REVOKE SELECT ON tallystick.{table} FROM tallystick_service")


async def test_answers_without_postgres(one: Service, client: Client) -> None:
    """A finished write and an account that was read are answered again from Redis alone, byte for byte."""
    first = await client.transfer("alice", "bob", 10, "kept")
    refused = await client.transfer("alice", "bob", 1_000, "refused")
    read = await client.get("/v1/accounts/alice")
    await locked_out(one)
    for _ in range(3):
        again = await client.transfer("alice", "bob", 10, "kept")
        assert (again.status, again.body, again.replayed) == (201, first.body, True)
        again = await client.transfer("alice", "bob", 1_000, "refused")
        assert (again.status, again.body, again.replayed) == (409, refused.body, True)
        cached = await client.get("/v1/accounts/alice")
        assert (cached.status, cached.body, cached.headers["ETag"]) == (200, read.body, read.headers["ETag"])
        assert (await client.get("/v1/accounts/alice", If_None_Match=read.headers["ETag"])).status == 304
    assert (await client.get("/v1/accounts/bob")).status >= 500


async def test_each_change_is_seen_by_the_next_read(client: Client) -> None:
    """After each kind of change of an account, the next cached read shows it."""
    assert (await client.account("alice"))["version"] == 2
    await client.transfer("alice", "bob", 1)
    assert (await client.account("alice"))["version"] == 3
    assert (await client.send("PATCH", "/v1/accounts/alice", {"floor": -5})).status == 200
    assert (await client.account("alice"))["floor"] == -5
    item = {"key": "b", "source": "alice", "destination": "bob", "amount": 1, "currency": "EUR"}
    await client.post("/v1/transfers/bulk", {"transfers": [item]})
    assert (await client.account("alice"))["version"] == 5
    assert await client.balance("bob") == 2


async def test_a_transfer_that_commits_after_an_expiry(
    one: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read before the commit counts the expiry and so has the transfer's version, but it is not cached."""
    monkeypatch.setattr(batch_poster, "LOCK_TIMEOUT_MS", 10_000)
    assert (await client.transfer("alice", "bob", 5, hold=True, expires_in=60)).status == 201
    async with moved_clock(one.database_url, one.redis_url) as clock:
        async with inserts_held(one.database_url):
            paying = asyncio.create_task(client.transfer("alice", "bob", 10))
            await until(partial(somebody_waits, one.database_url))
            await clock.advance(120)
            early = await client.account("alice")
        paid = await paying
        assert (early["balance"], early["available"], early["version"]) == (100, 100, paid.json["source_version"])
        assert await client.balance("alice") == 90


async def test_an_absent_account_is_found_as_soon_as_it_is_opened(client: Client) -> None:
    """The absence of an account is remembered only until the account is opened."""
    for _ in range(3):
        assert (await client.get("/v1/accounts/late")).status == 404
    await client.open("late")
    assert (await client.get("/v1/accounts/late")).status == 200


@pytest.mark.parametrize("garbage", [b"", b"S", b"S9 ", b"Sx {}", b"rubbish", b"\x00" * 40], ids=repr)
async def test_rubbish_in_redis_is_not_served(one: Service, client: Client, redis: RedisServer, garbage: bytes) -> None:
    """Foreign entries in Redis, or entries of other requests, change no answer."""
    first = await client.transfer("alice", "bob", 10, "kept")
    names = Keyspace()
    async with Database(one.database_url, posting_connections=1, reading_connections=1) as database:
        assert await names.learn(database)
        (ledger,) = await database.read("ledger_by_name", LEDGER)
    await redis.submit(b"", ("SET", names.replay(ledger["id"], "kept"), garbage))
    if not garbage.startswith(b"S9"):
        await redis.submit(b"", ("SET", names.snapshot(ledger["id"], "alice"), garbage))
        assert await client.balance("alice") == 90
    again = await client.transfer("alice", "bob", 10, "kept")
    assert (again.status, again.body, again.replayed) == (201, first.body, True)
    other = await client.transfer("alice", "bob", 11, "kept")
    assert (other.status, other.json["fields"]) == (422, ["amount"])


async def test_a_flushed_redis_changes_no_answer(client: Client, redis: RedisServer) -> None:
    """While Redis is flushed again and again, every read shows what was acknowledged and retries get the same bytes."""
    amount = 0
    posted = await client.transfer("alice", "bob", 1)

    async def flush() -> None:
        for _ in range(40):
            await redis.submit(b"", ("FLUSHALL",))
            await asyncio.sleep(0.01)

    flushing = asyncio.create_task(flush())
    while not flushing.done():
        amount += 1
        posted = await client.transfer("alice", "bob", 1, f"flushed-{amount}")
        if posted.status != 201:
            break
        assert (await client.account("bob"))["version"] == posted.json["destination_version"]
        again = await client.transfer("alice", "bob", 1, f"flushed-{amount}")
        assert again.body == posted.body
    await flushing
    assert amount > 10
    assert posted.status in (201, 409)


async def test_two_databases_never_meet_in_one_redis(
    one: Service, client: Client, template: str, redis_url: str
) -> None:
    """A service on another database never gets answers from this one, though ledger, accounts and keys are equal."""
    await client.transfer("alice", "bob", 10, "kept")
    assert await client.balance("alice") == 90
    async with in_process(await create_database(template), redis_url) as elsewhere:
        other = await elsewhere.client(LEDGER)
        assert (await other.get("/v1/accounts/alice")).status == 404
        assert (await other.transfer("alice", "bob", 10, "kept")).status == 404
