"""A ledger that is filled once, with 100,000 accounts and keys, more transfers, and many refusals and holds."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest

from tests.support.fill import BUSY, fill
from tests.support.postgres import create_database, drop_database

LEDGER = "large"
ACCOUNTS = 100_000
TRANSFERS = 130_000
REFUSALS = 20_000
UNMOVED = 20_000
KEYS = 100_000
# Keys that are not revoked: fewer than a ledger may have.
LIVE_KEYS = 5_000

_KEYS = """
    INSERT INTO api_keys (ledger_id, id, digest, role, revoked_at)
    SELECT $1, lpad(to_hex(n), 16, '0'), sha256(n::text::bytea), 'read', CASE WHEN n > $3 THEN now() END
    FROM generate_series(1, $2::bigint) AS n
"""
# The newest attempts, as from a client that keeps asking for something it cannot have.
_REFUSALS = """
    INSERT INTO transfers (ledger_id, amount, created_at, id, idempotency_key, fingerprint, kind, source, destination,
        currency, reference, metadata, refusal)
    SELECT $1, 1, clock_timestamp(), uuidv7(), 'flood-' || n, sha256(n::text::bytea), 'transfer', 'busy', 'nobody',
        'EUR', 'flood', '{}'::json, 'account_not_found'
    FROM generate_series(1, $2::bigint) AS n
"""
# The newest posted transfers: holds and voids of a shop, which move no money.
_UNMOVED = """
    INSERT INTO transfers (ledger_id, amount, source_balance, destination_balance, source_version, destination_version,
        created_at, held, id, moves, idempotency_key, fingerprint, kind, source, destination, currency, reference,
        metadata)
    SELECT $1, 1, 0, 0, n, n, clock_timestamp(), 1, uuidv7(), false, 'hold-' || n, sha256(n::text::bytea),
        CASE n % 2 WHEN 0 THEN 'hold' ELSE 'void' END, 'busy', 'sink', 'EUR', 'salary', '{"shop": "7"}'::json
    FROM generate_series(1, $2::bigint) AS n
"""


class Large(NamedTuple):
    """The large ledger, and a position in its middle."""

    url: str
    ledger_id: int
    # A posted transfer of `busy`, with about half of all others before it.
    middle_id: UUID
    middle_at: datetime
    middle_version: int
    # A midnight to which many transfers were back-dated.
    days_ago: datetime


@pytest.fixture(scope="session")
async def large(template: str) -> AsyncIterator[Large]:
    """The database with the large ledger; tests add only a few rows to it."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    ledger_id = await connection.fetchval("INSERT INTO ledgers (name) VALUES ($1) RETURNING id", LEDGER)
    await connection.execute(_KEYS, ledger_id, KEYS, LIVE_KEYS)
    await fill(connection, ledger_id, accounts=ACCOUNTS, transfers=TRANSFERS)
    await connection.execute(_REFUSALS, ledger_id, REFUSALS)
    await connection.execute(_UNMOVED, ledger_id, UNMOVED)
    await connection.execute("VACUUM (ANALYZE) api_keys, transfers")
    middle = await connection.fetchrow(
        "SELECT id, created_at, source_version FROM transfers WHERE ledger_id = $1 AND source = $2"
        " ORDER BY created_at OFFSET $3 LIMIT 1",
        ledger_id,
        BUSY,
        TRANSFERS // 10,
    )
    assert middle is not None
    await connection.close()
    midnight = middle["created_at"].replace(hour=0, minute=0, second=0, microsecond=0)
    yield Large._make((url, ledger_id, *middle, midnight - timedelta(days=20)))
    await drop_database(template, url)


# Due and open holds of `busy`. Each of the other accounts has one hold on either side; of four holds, one is due, one
# has ended and two are open.
DUE = 3
OPEN = 10_000
HELD = 20_000
_HOLDS = """
    INSERT INTO transfer_progress (ledger_id, id, amount, captured, remaining, expires_at, source, destination, state)
    SELECT $1, uuidv7(), 2, CASE WHEN h.place % 4 = 1 THEN 2 ELSE 0 END, CASE WHEN h.place % 4 = 1 THEN 0 ELSE 2 END,
           clock_timestamp() + interval '1 day' * CASE WHEN h.place % 4 = 0 THEN -1 ELSE 1 END, h.source, h.destination,
           CASE WHEN h.place % 4 = 1 THEN 'captured' ELSE 'open' END
    FROM (
        SELECT CASE WHEN n <= $2 THEN 0 ELSE 2 END, 'busy', 'sink' FROM generate_series(1, $2::bigint + $3) AS n
        UNION ALL
        SELECT n / 40, 'account:' || lpad((n * 5 % $5::bigint)::text, 8, '0'),
               'account:' || lpad(((n * 5 + 200) % $5)::text, 8, '0')
        FROM generate_series(1, $4::bigint) AS n
    ) AS h (place, source, destination)
"""
_RESERVED = """
    UPDATE accounts AS a SET held_out = coalesce(o.remaining, 0), held_in = coalesce(i.remaining, 0)
    FROM (SELECT source, sum(remaining) AS remaining FROM transfer_progress GROUP BY source) AS o
    FULL JOIN (SELECT destination, sum(remaining) AS remaining FROM transfer_progress GROUP BY destination) AS i
        ON i.destination = o.source
    WHERE a.ledger_id = $1 AND a.id = coalesce(o.source, i.destination)
"""


@pytest.fixture(scope="session")
async def held(large: Large) -> Large:
    """The large ledger with many holds."""
    connection = await asyncpg.connect(large.url, server_settings={"search_path": "tallystick"})
    await connection.execute(_HOLDS, large.ledger_id, DUE, OPEN, HELD, ACCOUNTS)
    await connection.execute(_RESERVED, large.ledger_id)
    await connection.execute("VACUUM (ANALYZE) accounts, transfer_progress")
    await connection.close()
    return large


# Transfers of a ledger with a feed, and changes of its accounts at the end.
TOLD = 20_000
CHANGES = 500
OUTBOX = """
    INSERT INTO outbox (ledger_id, posted_at, transfers)
    SELECT ledger_id, created_at, array_agg(id) FROM transfers GROUP BY ledger_id, created_at
"""
_CHANGED = """
    INSERT INTO outbox (ledger_id, posted_at, account, change)
    SELECT ledger_id, clock_timestamp(), id, account_event('account.updated', a) FROM accounts AS a LIMIT $1
"""
# Feeds of other ledgers.
_HEADS = """
    WITH others AS (INSERT INTO ledgers (name) SELECT 'other-' || n FROM generate_series(1, 3000) AS n RETURNING id)
    INSERT INTO feed_heads (ledger_id) SELECT id FROM others
"""
_RELAY = "SELECT FROM relay_outbox('0', '{}', 1000000, 1000000)"


@pytest.fixture(scope="session")
async def told(template: str) -> AsyncIterator[tuple[str, int]]:
    """A database whose one full ledger has a long feed, and the id of that ledger."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    ledger_id = await connection.fetchval("INSERT INTO ledgers (name) VALUES ('told') RETURNING id")
    await fill(connection, ledger_id, accounts=1_000, transfers=TOLD)
    await connection.execute(OUTBOX)
    await connection.execute(_CHANGED, CHANGES)
    await connection.execute(_RELAY)
    await connection.execute(_HEADS)
    await connection.execute("VACUUM (ANALYZE) outbox, feed, feed_accounts, feed_heads")
    await connection.close()
    yield url, ledger_id
    await drop_database(template, url)
