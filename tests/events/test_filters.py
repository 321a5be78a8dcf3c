"""Whatever filter a consumer uses and however late transactions commit, it gets every match once and in order."""

import random
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from server.books import create_books
from server.events.feed import TYPES, Event, Feed
from server.http import render
from server.settings import Settings
from tests.support.fill import BUSY, SINK, fill
from tests.support.postgres import create_database, drop_database
from tests.support.service import NO_REDIS

TRANSFERS = 1_500
# Few, so that a look ends before it has found everything: fewer than may have committed late.
EXAMINED = 200
# Transfers are posted a millisecond apart. Within this many, any may commit first.
LATE = (5, 600, 50, 5)
_CHANGE = """
    INSERT INTO outbox (ledger_id, posted_at, account, change)
    SELECT ledger_id, $2, id, account_event('account.updated', a) FROM accounts AS a WHERE ledger_id = $1 AND id = $3
"""
_BATCH = "INSERT INTO outbox (ledger_id, posted_at, transfers) VALUES ($1, $2, ARRAY[$3::uuid])"
_REFUSED = "UPDATE transfers SET destination = 'other' WHERE refusal IS NOT NULL"
# Some of the others are holds, which change versions but no balance.
_HELD = """
    UPDATE transfers SET kind = 'hold', moves = false, expires_at = created_at WHERE hashint8(amount) % 5 = 0 AND moves
"""


@pytest.fixture(scope="module")
async def told(template: str) -> AsyncIterator[tuple[Feed, int, list[Event]]]:
    """A feed whose rows committed in random order, its ledger, and all of its events."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    ledger_id = await connection.fetchval("INSERT INTO ledgers (name) VALUES ('told') RETURNING id")
    await fill(connection, ledger_id, accounts=20, transfers=TRANSFERS)
    await connection.execute(_REFUSED)
    await connection.execute(_HELD)
    rows = await connection.fetch("SELECT id, created_at, source FROM transfers ORDER BY created_at")
    chance = random.Random(11)
    part = len(rows) // len(LATE)
    places = {row["id"]: place + chance.random() * LATE[place // part % len(LATE)] for place, row in enumerate(rows)}
    rows.sort(key=lambda row: places[row["id"]])
    while rows:
        commits, rows = rows[: (size := chance.randrange(1, 60))], rows[size:]
        await connection.executemany(_BATCH, [(ledger_id, row["created_at"], row["id"]) for row in commits])
        for account in ("other", "other", "other", commits[0]["source"]):
            await connection.execute(_CHANGE, ledger_id, commits[0]["created_at"], account)
        await connection.execute("SELECT FROM relay_outbox('0', '{}', 1000, 1000)")
    await connection.close()
    async with create_books(Settings(database_url=url, redis_url=NO_REDIS)) as books:
        page = await books.feed.page(ledger_id, 0, 10 * TRANSFERS)
        assert page.next_after == page.head == len(page.events) > TRANSFERS
        cache = books.cache
        yield Feed(books.database, cache, render.transfer_now, render.account, EXAMINED), ledger_id, page.events
    await drop_database(template, url)


@pytest.mark.parametrize("limit", [1, 9, 100])
@pytest.mark.parametrize(
    "types", [(), ("transfer.posted",), ("transfer.refused",), ("hold.created", "account.updated")]
)
@pytest.mark.parametrize("account", [None, BUSY, SINK, "other", "account:00000007", "zebra"])
async def test_chosen(
    told: tuple[Feed, int, list[Event]], account: str | None, types: Sequence[str], limit: int
) -> None:
    """From any position, the pages have exactly the matching rest of the feed."""
    feed, ledger_id, events = told
    for start in (0, len(events) // 3, len(events) - 40) if limit > 1 else (len(events) - 300,):
        expected = [
            event.position
            for event in events[start:]
            if (account is None or account in event.accounts) and (not types or event.type in types)
        ]
        after, found = start, []
        while True:
            page = await feed.page(ledger_id, after, limit, types=types, account=account)
            found += [event.position for event in page.events]
            assert len(page.events) <= limit
            if page.next_after == page.head:
                break
            assert page.next_after > after
            after = page.next_after
        assert found == expected


def test_types_are_those_of_the_database() -> None:
    """Each event type has its own bit."""
    assert sorted(TYPES.values()) == [1 << n for n in range(len(TYPES))]
