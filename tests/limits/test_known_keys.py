"""Known keys are read again while they are still trusted, and no request waits for it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.gate import keys
from server.store.errors import StoreUnavailableError
from server.store.postgres import Database
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.waiting import until

FOR_EVER = 60.0
LOCK = "LOCK TABLE tallystick.api_keys IN ACCESS EXCLUSIVE MODE"
REVOKE = "UPDATE tallystick.api_keys SET revoked_at = now() WHERE id = $1"


@pytest.fixture
async def service(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service that reads a key again at its second request, and trusts it for longer than a test takes."""
    monkeypatch.setattr(keys, "CACHE_SECONDS", FOR_EVER)
    monkeypatch.setattr(keys, "REFRESH_SECONDS", FOR_EVER)
    async with in_process(database_url, redis_url) as running:
        yield running


@pytest.fixture
async def client(service: Service) -> Client:
    """A client whose key the worker knows."""
    known = await service.client("books")
    assert (await known.get("/v1/accounts")).status == 200
    return known


async def ask(client: Client, times: int) -> None:
    """Send requests that need the key but no locked rows, and check that they are served."""
    answers = await asyncio.gather(*(client.get("/v1/accounts/nobody") for _ in range(times)))
    assert {answer.status for answer in answers} == {404}


async def test_nobody_waits_while_a_key_is_read_anew(service: Service, client: Client, asked: list[int]) -> None:
    """While a key is read again, all requests are served, it is read only once, and the result is used."""
    holder = await asyncpg.connect(service.database_url)
    try:
        async with holder.transaction():
            await holder.execute(LOCK)
            await ask(client, 50)
            await ask(client, 50)
            assert asked == [1]
            assert client.token is not None
            await holder.execute(REVOKE, client.token.split("_")[2])
    finally:
        await holder.close()

    async def revoked() -> bool:
        return (await client.get("/v1/accounts/nobody")).status == 401

    # On a busy machine the read itself fails, and is repeated once the key has been trusted long enough.
    await until(revoked, FOR_EVER + keys.CACHE_AWAY_SECONDS)


async def test_keys_that_are_read_anew_at_once_share_queries(service: Service, asked: list[int]) -> None:
    """A hundred keys that are due at once are each read once, with fewer queries than keys."""
    clients = [await service.client("books") for _ in range(100)]
    for _ in range(2):
        asked.clear()
        answers = await asyncio.gather(*(client.get("/v1/accounts/nobody") for client in clients))
        assert {answer.status for answer in answers} == {404}
    await until(lambda: sum(asked) >= len(clients), FOR_EVER)
    assert sum(asked) == len(clients)
    assert len(asked) < len(clients), asked


async def test_a_key_that_cannot_be_read_anew_is_trusted_on(
    client: Client, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the read fails, the key stays trusted, and the read is not repeated with each request."""
    read = Database.read

    async def fail(database: Database, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await read(database, name, *arguments)
        if name == "api_key_read_many":
            raise StoreUnavailableError("away")
        return rows

    monkeypatch.setattr(Database, "read", fail)
    for _ in range(3):
        await ask(client, 10)
    assert asked == [1]
