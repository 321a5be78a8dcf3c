"""Holds that are due are swept: each once, those of all ledgers, and past what cannot be swept now."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.background import hold_sweeper as module
from server.background.hold_sweeper import Sweeper
from server.background.jobs import keep
from server.store.background import stop
from tests.support.books import check_books
from tests.support.client import Client, new_key
from tests.support.holds import expiries, hold, stored
from tests.support.locks import held
from tests.support.service import Service, in_process, leader_books
from tests.support.waiting import until

# Expiries posted together, and more than one batch of them.
BATCH_MAX = 20
HOLDS = 2 * BATCH_MAX + 10
SWEPT_SECONDS = 45.0


@pytest.fixture
async def own(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service on a database of its own: the sweeper looks at all ledgers, in small batches, and soon again."""
    monkeypatch.setattr(module, "BATCH_MAX", BATCH_MAX)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1.25)
    monkeypatch.setattr(module, "LEFT_SECONDS", 0.25)
    async with in_process(database_url, redis_url) as service:
        yield service


@asynccontextmanager
async def sweeping(service: Service) -> AsyncIterator[Sweeper]:
    """Sweep as a leader does."""
    async with leader_books(service) as books:
        sweeper = Sweeper(books.database, books.posting)
        running = asyncio.create_task(keep(sweeper))
        try:
            yield sweeper
        finally:
            await stop(running)


async def payers(service: Service, ledger: str, *names: str) -> Client:
    """Return a client of a ledger with a shop and accounts that have money."""
    client = await service.client(ledger)
    await client.open("shop")
    for name in names:
        await client.fund(name, 10_000)
    return client


async def test_each_is_swept_once(own: Service) -> None:
    """By two at once, as when a leader thaws: every hold gets one expiry, and nothing stays held."""
    client = await payers(own, "once", "alice")
    holds = await hold(client, "alice", HOLDS)
    assert await stored(own.database_url) == 2 * HOLDS
    async with sweeping(own) as first, sweeping(own) as second:
        await until(lambda: first.swept + second.swept == HOLDS, SWEPT_SECONDS)
        assert await expiries(own.database_url) == sorted(holds)
        assert await stored(own.database_url) == 0
        # What was found by both before it was posted is no failure.
        assert first.failures == second.failures == 0
        await until(lambda: first.lag_seconds == second.lag_seconds == 0.0)
    await check_books(own.database_url)


async def test_nobody_sees_it(own: Service) -> None:
    """An account is the same before it is swept and after, its version included; its hold says that it is expired."""
    client = await payers(own, "unseen", "alice")
    [hold_id] = await hold(client, "alice")

    async def expired() -> bool:
        return bool((await client.get(f"/v1/transfers/{hold_id}")).json["hold"]["state"] == "expired")

    await until(expired)
    fresh = {"Cache_Control": "no-cache"}
    before = (await client.get("/v1/accounts/alice", **fresh)).json
    assert (before["held_out"], before["available"]) == (0, 10_000)
    assert await expiries(own.database_url) == []
    async with sweeping(own) as sweeper:
        await until(lambda: sweeper.swept == 1, SWEPT_SECONDS)
    assert (await client.get("/v1/accounts/alice", **fresh)).json == before
    assert (await client.get("/v1/accounts/alice")).json == before
    assert await expired()


async def test_a_locked_account_holds_up_nobody(own: Service) -> None:
    """Its holds wait; the others of the batch, what is behind them and other ledgers do not."""
    client = await payers(own, "locked", "alice", "bob")
    other = await payers(own, "free", "carol")
    locked = await hold(client, "alice", 3, "bob")
    free = [*await hold(client, "world", HOLDS), *await hold(other, "carol", 3)]
    async with sweeping(own) as sweeper:
        async with held(own.database_url, "alice"):
            await until(lambda: sweeper.swept == len(free), SWEPT_SECONDS)
            assert await expiries(own.database_url) == sorted(free)
            await until(lambda: sweeper.failures > 0, SWEPT_SECONDS)
            assert sweeper.lag_seconds > 0
        await until(lambda: sweeper.swept == len(free) + len(locked), SWEPT_SECONDS)
    assert await expiries(own.database_url) == sorted([*free, *locked])
    await check_books(own.database_url)


async def test_a_locked_hold_holds_up_nobody(own: Service) -> None:
    """It waits; the other holds of its accounts, what is behind them and other ledgers do not."""
    client = await payers(own, "locked", "alice")
    other = await payers(own, "free", "carol")
    [locked] = await hold(client, "alice")
    free = [*await hold(client, "alice", HOLDS), *await hold(other, "carol", 3)]
    async with sweeping(own) as sweeper:
        async with held(own.database_url, locked, table="transfer_progress"):
            await until(lambda: sweeper.swept == len(free), SWEPT_SECONDS)
            assert await expiries(own.database_url) == sorted(free)
            await until(lambda: sweeper.failures > 0, SWEPT_SECONDS)
        await until(lambda: sweeper.swept == len(free) + 1, SWEPT_SECONDS)
    await check_books(own.database_url)


async def test_all_ledgers_are_looked_at(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages of ledgers there are, and however few are swept at once."""
    monkeypatch.setattr(module, "LEDGERS_PAGE", 2)
    monkeypatch.setattr(module, "LEDGERS_MAX", 1)
    holds = []
    for number in range(5):
        client = await payers(own, f"ledger-{number}", "alice")
        if number != 2:
            holds += await hold(client, "alice")
    async with sweeping(own) as sweeper:
        await until(lambda: sweeper.swept == len(holds), SWEPT_SECONDS)
    assert await expiries(own.database_url) == sorted(holds)


async def test_what_was_ended_before(own: Service) -> None:
    """A hold that was captured or voided in time has no expiry, and neither has one that is not due."""
    client = await payers(own, "ended", "alice")
    captured, voided, due = await hold(client, "alice", 3)
    answer = await client.transfer("alice", "shop", 1, hold=True, expires_in=60)
    assert answer.status == 201
    for hold_id, end in ((captured, "capture"), (voided, "void")):
        headers = {"Idempotency-Key": new_key()}
        answer = await client.send("POST", f"/v1/transfers/{hold_id}/{end}", {}, headers=headers)
        assert answer.status == 201, answer
    async with sweeping(own) as sweeper:
        await until(lambda: sweeper.swept == 1, SWEPT_SECONDS)
    assert await expiries(own.database_url) == [due]
    assert await stored(own.database_url) == 2
