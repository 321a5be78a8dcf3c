"""Invented tokens with a valid checksum: their cost is bounded, and callers with keys do not pay it."""

import asyncio

import asyncpg
import pytest

from server.gate.tokens import new_key
from server.store.postgres import READ_WAITERS_MAX
from server.store.sessions import SESSION_SETTINGS
from tests.support.client import Client
from tests.support.service import Service, in_process

# More than may wait for a reading connection.
FLOOD = READ_WAITERS_MAX + 100
# More than may fail or wait for a lookup, with the small bounds of a test.
SOME = 60


def stranger(service: Service) -> Client:
    """Return a client with a well-formed token that is not a key."""
    return Client(service.session, service.url, new_key(1).token)


async def test_a_flood_of_strangers_takes_no_room_of_readers(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of unknown keys does not block a known key's reads; beyond their own bound, unknown keys get 503."""
    # Keeps the known key valid during the flood: reading it again would wait for the lock.
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 60.0)
    # Keeps the flood waiting long enough, on a busy machine too.
    for name in ("lock_timeout", "statement_timeout"):
        monkeypatch.setitem(SESSION_SETTINGS, name, "10s")
    for module in ("postgres", "pools"):
        monkeypatch.setattr(f"server.store.{module}.COMMAND_TIMEOUT_SECONDS", 10.0)
    async with in_process(database_url, redis_url) as service:
        good = await service.client("books")
        assert (await good.get("/v1/transfers")).status == 200
        holder = await asyncpg.connect(database_url)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE tallystick.api_keys IN ACCESS EXCLUSIVE MODE")
                flood = [asyncio.create_task(stranger(service).get("/v1/transfers")) for _ in range(FLOOD)]
                answers = asyncio.as_completed(flood)
                while (refused := await next(answers)).code != "overloaded":
                    # The answers of the first query, whose wait for the lock has ended.
                    assert refused.status == 503
                assert 1 <= int(refused.headers["Retry-After"]) <= 3
                assert (await good.get("/v1/transfers")).status == 200
        finally:
            await holder.close()
        assert {answer.status for answer in await asyncio.gather(*flood)} == {401, 503}
        assert (await stranger(service).get("/v1/transfers")).status == 401


async def test_strangers_share_queries(database_url: str, redis_url: str, asked: list[int]) -> None:
    """A hundred keys, one valid and 99 unknown, are looked up with fewer queries than keys."""
    async with in_process(database_url, redis_url) as service:
        good = await service.client("books")
        answers = await asyncio.gather(
            *(client.get("/v1/accounts") for client in [*map(stranger, [service] * 99), good])
        )
        assert [answer.status for answer in answers] == [401] * 99 + [200]
        assert sum(asked) == 100
        assert len(asked) < 100, asked


async def test_a_key_that_was_known_is_no_stranger(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an address without failures left, a known key is still read again, and a new key is not looked up."""
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 0.0)
    async with in_process(database_url, redis_url, auth_failure_rate="1/day", auth_failure_burst=3) as service:
        known, late = await service.client("books"), await service.client("books")
        assert (await known.get("/v1/accounts")).status == 200
        for _ in range(3):
            assert (await stranger(service).get("/v1/accounts")).status == 401
        assert (await known.get("/v1/accounts")).status == 200
        refused = await late.get("/v1/accounts")
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        assert refused.json["violated-policies"] == ["authentication"]


async def test_an_address_without_failures_left_is_not_looked_up(
    database_url: str, redis_url: str, asked: list[int]
) -> None:
    """Unknown keys from an address without failures left cost no query, through any worker."""
    settings: dict[str, object] = {"auth_failure_rate": "1/day", "auth_failure_burst": 3}
    async with (
        in_process(database_url, redis_url, **settings) as one,
        in_process(database_url, redis_url, **settings) as two,
    ):
        statuses = [(await stranger(one).get("/v1/accounts")).status for _ in range(3)]
        assert (statuses, len(asked)) == ([401] * 3, 3)
        for service in (one, two, one, two):
            assert (await stranger(service).get("/v1/accounts")).status == 429
        assert len(asked) == 3


async def test_strangers_past_their_bound_count_as_failures(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown keys that are not looked up, because too many wait, still count as failures of their address."""
    monkeypatch.setattr("server.gate.keys.UNKNOWN_KEYS_QUEUE_MAX", 1)
    async with in_process(database_url, redis_url, auth_failure_rate="1/day", auth_failure_burst=3) as service:
        holder = await asyncpg.connect(database_url)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE tallystick.api_keys IN ACCESS EXCLUSIVE MODE")
                answers = await asyncio.gather(*(stranger(service).get("/v1/accounts") for _ in range(SOME)))
                assert {answer.status for answer in answers} <= {429, 503}
                assert (await stranger(service).get("/v1/accounts")).status == 429
        finally:
            await holder.close()
