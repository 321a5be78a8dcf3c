"""On tables without statistics, plans that were made while they were empty find rows by index after they have grown."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from server.events.relay import Relay
from server.ledger.audit_pages import Finding
from tests.plans.test_requests import sessions_ended
from tests.support.audits import look, look_by_pages, relay_all
from tests.support.client import Client, new_key
from tests.support.postgres import create_database, drop_database
from tests.support.service import in_process

TABLES = ("accounts", "transfers", "transfer_progress", "outbox", "feed", "feed_heads", "feed_accounts")
ACCOUNTS = 1_000
BATCHES = 20
BATCH = 200
# Batches while the tables are nearly empty: twice as many as it takes for a plan to be cached.
EARLY = 10
# Transfers that each have a row of the feed.
SINGLE = 100
# The page of an audit by pages, and how often an audit may read each row.
PAGE = 500
PASSES_MAX = 20


async def rows_read(url: str) -> dict[str, int]:
    """Return for each table the rows read so far, through indexes or by scans."""
    connection = await asyncpg.connect(url)
    try:
        await sessions_ended(connection)
        rows = await connection.fetch(
            "SELECT t.relname, coalesce(t.seq_tup_read, 0) + (SELECT coalesce(sum(i.idx_tup_read), 0)"
            " FROM pg_stat_user_indexes AS i WHERE i.relid = t.relid) FROM pg_stat_user_tables AS t"
        )
        return {row[0]: int(row[1]) for row in rows}
    finally:
        await connection.close()


async def post(client: Client, number: int, **fields: object) -> list[Any]:
    """Post a batch from one of a hundred accounts to others and return the transfers."""
    items = [
        {
            "key": new_key(),
            "source": f"a{number % 50}",
            "destination": f"a{50 + place % 50}",
            "amount": 1,
            "currency": "EUR",
            **fields,
        }
        for place in range(BATCH)
    ]
    return await post_items(client, items)


async def post_items(client: Client, items: list[dict[str, Any]]) -> list[Any]:
    """Post a batch; every item must be posted."""
    answer = await client.post("/v1/transfers/bulk", {"atomic": False, "transfers": items})
    assert {item["status"] for item in answer.json["results"]} == {201}
    return [item["transfer"] for item in answer.json["results"]]


@asynccontextmanager
async def young(template: str) -> AsyncIterator[str]:
    """A database whose tables are never analyzed."""
    url = await create_database(template)
    try:
        connection = await asyncpg.connect(url)
        for table in TABLES:
            await connection.execute(f"ALTER TABLE tallystick.{table} SET (autovacuum_enabled = off)")
        await connection.close()
        yield url
    finally:
        await drop_database(template, url)


@pytest.mark.parametrize("accounts_first", [True, False])
async def test_postings_read_what_they_name(template: str, *, accounts_first: bool) -> None:
    """Batches read only their own accounts and keys, however many others there are by then."""
    async with young(template) as url:
        async with in_process(url, posting_connections=1) as service:
            client = await service.client("young")
            opened = [{"id": f"a{number}", "currency": "EUR", "floor": None} for number in range(ACCOUNTS)]
            await client.post("/v1/accounts/bulk", {"accounts": opened if accounts_first else opened[:100]})
            for number in range(EARLY):
                await post(client, number)
            await client.post("/v1/accounts/bulk", {"accounts": opened})
            for number in range(BATCHES):
                await post(client, number)
        read = await rows_read(url)
    batches = EARLY + BATCHES
    # Each account of a batch is locked and then updated; an updated row is also found by its old index entries.
    assert 0 < read["accounts"] < batches * 51 * 2 * 4 + 4 * ACCOUNTS, read
    # All keys are new, so that there is nothing to read.
    assert read["transfers"] < batches * 10, read


async def test_holds_and_captures_read_what_they_name(template: str) -> None:
    """
    Holds and their captures, which find them by id and by key, read only their own rows, however many others are open.
    """
    async with young(template) as url:
        async with in_process(url, posting_connections=1) as service:
            client = await service.client("young")
            opened = [{"id": f"a{number}", "currency": "EUR", "floor": None} for number in range(100)]
            await client.post("/v1/accounts/bulk", {"accounts": opened})
            for number in range(EARLY + BATCHES):
                # Half of the holds stay open.
                await post(client, number, hold=True)
                keys = [new_key() for _ in range(BATCH // 2)]
                holds = [
                    {"key": key, "source": "a0", "destination": "a1", "amount": 1, "currency": "EUR", "hold": True}
                    for key in keys
                ]
                named = await post_items(client, [*holds, *({**hold, "key": new_key()} for hold in holds)])
                parents = [{"parent_key": key} for key in keys] + [{"parent": row["id"]} for row in named[BATCH // 2 :]]
                await post_items(client, [{"key": new_key(), "kind": "capture", **parent} for parent in parents])
        read = await rows_read(url)
    captures = (EARLY + BATCHES) * BATCH
    # A capture looks its hold up and reads it again to change its row; no hold is due.
    assert captures <= read["transfer_progress"] < 5 * captures, read
    assert captures <= read["transfers"] < 3 * captures, read


async def test_a_relay_and_its_readers_read_what_they_name(template: str) -> None:
    """
    The relay, pages of all events, of an account and of a type, and a transfer by its id read only their own rows.
    """
    async with young(template) as url:
        async with (
            in_process(url, posting_connections=1, reading_connections=1) as service,
            relaying(url) as relay,
        ):
            client = await service.client("young")
            await client.post(
                "/v1/accounts/bulk",
                {"accounts": [{"id": f"a{number}", "currency": "EUR", "floor": None} for number in range(100)]},
            )
            for number in range(EARLY + BATCHES):
                await post(client, number)
                await client.transfer("a0", "a0:none", 1)
                await relay.step()
                for chosen in ("", "&account=a0", "&type=transfer.refused", "&account=a0&type=transfer.refused"):
                    answer = await client.get(f"/v1/events?after={number * (BATCH + 1)}&limit=20{chosen}")
                    assert answer.status == 200
                newest = (await client.get("/v1/transfers?limit=1")).json["data"][0]["id"]
                assert (await client.get(f"/v1/transfers/{newest}")).status == 200
        read = await rows_read(url)
    batches = EARLY + BATCHES
    # The relay reads each transfer once, and a refused one twice; a page reads its rows and those near them.
    assert read["transfers"] < batches * (BATCH + 4 * 300), read
    assert read["feed"] < batches * 4 * 400, read
    assert read["outbox"] < batches * 20, read


async def by_pages(url: str) -> dict[str, Finding]:
    """Audit by pages, as the auditor does."""
    return await look_by_pages(url, PAGE)


async def at_once(url: str) -> dict[str, Finding]:
    """Audit at once, as `tallystick audit` does."""
    return (await look(url))[0]


@pytest.mark.parametrize("audit", [at_once, by_pages])
async def test_an_audit_reads_each_row_some_times(
    template: str, audit: Callable[[str], Awaitable[dict[str, Finding]]]
) -> None:
    """An audit reads each row only a few times, even if the statistics are from when the tables were small."""
    async with young(template) as url:
        async with in_process(url, posting_connections=1) as service:
            client = await service.client("young")
            opened = [{"id": f"a{number}", "currency": "EUR", "floor": None} for number in range(ACCOUNTS)]
            await client.post("/v1/accounts/bulk", {"accounts": opened[:100]})
            await post(client, 0)
            await relay_all(url)
            connection = await asyncpg.connect(url)
            await connection.execute("ANALYZE")
            await connection.close()
            await client.post("/v1/accounts/bulk", {"accounts": opened[100:]})
            for number in range(BATCHES):
                await post(client, number, hold=number % 2 == 0)
            for _ in range(SINGLE):
                await client.transfer("a0", "a1", 1)
            await relay_all(url)
        before = await rows_read(url)
        assert not await audit(url)
        after = await rows_read(url)
    read = {table: after[table] - before[table] for table in TABLES}
    transfers = (1 + BATCHES) * BATCH + SINGLE
    assert transfers <= read["transfers"] < PASSES_MAX * transfers, read
    assert read["accounts"] < PASSES_MAX * (ACCOUNTS + transfers), read
    assert read["feed"] < PASSES_MAX * (ACCOUNTS + BATCHES + SINGLE + transfers), read


@asynccontextmanager
async def relaying(url: str) -> AsyncIterator[Relay]:
    """Run a relay of a database."""
    relay = Relay(url)
    try:
        yield relay
    finally:
        await relay.close()
