"""The past does not change, even for an instant that a posting under way may fall before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from server.ledger.ids import new_transfer_id
from server.ledger.post_transfers import columns
from server.ledger.transfers import TransferRequest
from server.ledger.unit import Unit
from server.store.sql import query
from tests.api.steps import blocked, lock_held
from tests.support.client import Answer, Client
from tests.support.service import Service
from tests.support.waiting import until

# Seconds that a read waits for a locked account here: less than usual, but several lock timeouts.
SHORT_SECONDS = 1.5


@pytest.fixture
async def books(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


@asynccontextmanager
async def under_way(url: str, client: Client) -> AsyncIterator[asyncpg.Connection]:
    """Leave a posting of 30 from alice to bob uncommitted, like a batch with a slow commit."""
    assert client.token is not None
    ledger_id = int(client.token.split("_")[1], 16)
    key, digest = "under-way", bytes(32)
    asked = ("alice", "bob", 30, "EUR", None, None, "{}", None, "request", None, None, None)
    request = TransferRequest(key, digest, new_transfer_id(), *asked)
    unit = Unit(ledger_id, (request,), 0.0, 0.0)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    try:
        transaction = connection.transaction()
        await transaction.start()
        row = await connection.fetchrow(query("transfer_post_many"), *columns([unit]).arguments, [True], 250, True)
        assert row is not None
        assert row["outcomes"] == ["posted"]
        yield connection
        await transaction.commit()
    finally:
        await connection.close()


async def ask(client: Client, path: str, at: datetime) -> Answer:
    """Send a GET with an instant."""
    return await client.get(path + quote(at.isoformat()))


@pytest.mark.parametrize("path", ["/v1/accounts/alice/balance?at=", "/v1/accounts/alice/entries?to="])
async def test_a_posting_under_way_is_waited_for(service: Service, books: Client, path: str) -> None:
    """A read at an instant after that of an uncommitted posting waits, and its answer includes the posting."""
    async with under_way(service.database_url, books) as connection:
        at = await connection.fetchval("SELECT clock_timestamp()")
        first = asyncio.create_task(ask(books, path, at))

        async def arrived() -> bool:
            return first.done() or bool(await blocked(connection))

        await until(arrived)
    later = await ask(books, path, at)
    assert later.status == 200
    assert (await first).json == later.json
    document: Any = later.json
    assert (document["balance"] if "balance" in document else document["data"][0]["balance"]) == 70


async def test_old_instants_wait_for_nobody(service: Service, books: Client) -> None:
    """Reads of old instants, and statements without an end, do not wait for locks."""
    async with lock_held(service, "alice"):
        assert (await books.get("/v1/accounts/alice/balance?at=2001-01-01T00:00:00Z")).json["balance"] == 0
        assert (await books.get("/v1/accounts/alice/entries?to=2001-01-01T00:00:00Z")).json["data"] == []
        assert len((await books.get("/v1/accounts/alice/entries")).json["data"]) == 1


async def test_a_locked_account_keeps_only_its_own_callers(
    service: Service, books: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads of the last moments of a locked account get 503; those of other accounts are answered."""
    monkeypatch.setattr("server.ledger.recent.READ_DEADLINE_SECONDS", SHORT_SECONDS)
    async with lock_held(service, "alice") as holder:
        at = await holder.fetchval("SELECT clock_timestamp()")
        alice, bob = await asyncio.gather(
            *(ask(books, f"/v1/accounts/{name}/balance?at=", at) for name in ("alice", "bob"))
        )
        assert (alice.status, alice.code) == (503, "unavailable")
        assert (bob.status, bob.json["balance"]) == (200, 0)


async def test_the_future_is_not_waited_for(books: Client) -> None:
    """A future instant is refused at `balance`, and does not limit a statement."""
    at = datetime.fromisoformat("2100-01-01T00:00:00+00:00")
    assert (await ask(books, "/v1/accounts/alice/balance?at=", at)).status == 400
    assert len((await ask(books, "/v1/accounts/alice/entries?to=", at)).json["data"]) == 1
