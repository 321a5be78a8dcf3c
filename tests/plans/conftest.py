"""A ledger with more than 100,000 accounts, transfers and keys, and one with as many refusals, filled once."""

from collections.abc import AsyncIterator
from datetime import datetime
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
KEYS = 100_000

_KEYS = """
    INSERT INTO api_keys (ledger_id, id, digest, role)
    SELECT $1, lpad(to_hex(n), 16, '0'), sha256(n::text::bytea), 'read' FROM generate_series(1, $2::bigint) AS n
"""
# The newest attempts of all: what a client leaves that goes on asking for what it cannot have.
_REFUSALS = """
    INSERT INTO transfers (ledger_id, amount, created_at, id, idempotency_key, fingerprint, kind, source, destination,
        currency, reference, metadata, refusal)
    SELECT $1, 1, clock_timestamp(), uuidv7(), 'flood-' || n, sha256(n::text::bytea), 'transfer', 'busy', 'nobody',
        'EUR', 'flood', '{}'::json, 'account_not_found'
    FROM generate_series(1, $2::bigint) AS n
"""


class Large(NamedTuple):
    """The large ledger, and a place deep inside it."""

    url: str
    ledger_id: int
    # A posted transfer of `busy`, with about half of all others before it.
    middle_id: UUID
    middle_at: datetime
    middle_version: int


@pytest.fixture(scope="session")
async def large(template: str) -> AsyncIterator[Large]:
    """The database with the large ledger; tests add no more than a few rows to it."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    ledger_id = await connection.fetchval("INSERT INTO ledgers (name) VALUES ($1) RETURNING id", LEDGER)
    await connection.execute(_KEYS, ledger_id, KEYS)
    await fill(connection, ledger_id, accounts=ACCOUNTS, transfers=TRANSFERS)
    await connection.execute(_REFUSALS, ledger_id, REFUSALS)
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
    yield Large(url, ledger_id, *middle)
    await drop_database(template, url)
