"""Finding due holds reads one index entry for each ledger, and one for each hold that it finds."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from server.background.hold_sweeper import BATCH_MAX, LEDGERS_PAGE
from server.ledger.limits import TIME_MIN
from server.store.sql import query
from tests.plans.plan import explain, session
from tests.support.postgres import create_database, drop_database

LEDGERS = 3_000
# Holds of the first ledger: one that came due in each of the last seconds, later ones, and ended ones.
DUE, OPEN, ENDED = 20_000, 20_000, 20_000
ID_MIN = "00000000-0000-0000-0000-000000000000"

_HOLDS = """
    INSERT INTO transfer_progress (ledger_id, amount, remaining, expires_at, id, source, destination, state)
    SELECT $1, 1, CASE WHEN $4 = 'open' THEN 1 ELSE 0 END, $3::timestamptz + n * interval '1 second', uuidv7(),
           'account:' || n, 'shop', $4
    FROM generate_series(1, $2::bigint) AS n
"""


@pytest.fixture(scope="module")
async def holds(template: str) -> AsyncIterator[tuple[str, int]]:
    """A database with many holds in the first of many ledgers, and the id of that ledger."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    ledgers = "INSERT INTO ledgers (name) SELECT 'l' || n FROM generate_series(1, $1::bigint) AS n"
    await connection.execute(ledgers, LEDGERS)
    ledger = await connection.fetchval("SELECT min(id) FROM ledgers")
    now = datetime.now(UTC)
    for count, since, state in (
        (DUE, now - timedelta(seconds=DUE + 60), "open"),
        (OPEN, now + timedelta(hours=1), "open"),
        (ENDED, now - timedelta(seconds=ENDED + 60), "captured"),
    ):
        await connection.execute(_HOLDS, ledger, count, since, state)
    await connection.execute("VACUUM (ANALYZE) ledgers, transfer_progress")
    await connection.close()
    yield url, ledger
    await drop_database(template, url)


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize(
    ("after", "rows_max"),
    [
        pytest.param(timedelta.max, BATCH_MAX + 1, id="the first page"),
        pytest.param(timedelta(seconds=DUE // 2), BATCH_MAX + 2, id="a page in the middle"),
        pytest.param(timedelta(seconds=-60), 1, id="past all that is due"),
    ],
)
async def test_due_holds(holds: tuple[str, int], after: timedelta, rows_max: int, seqscan: str) -> None:
    """Reading a page of due holds reads only its rows."""
    url, ledger = holds
    at = TIME_MIN if after == timedelta.max else datetime.now(UTC) - after
    connection = await session(url, seqscan=seqscan)
    try:
        plan = await explain(connection, query("hold_due_page"), (ledger, at, ID_MIN, BATCH_MAX))
    finally:
        await connection.close()
    assert plan.scanned == set(), plan.text
    assert plan.rows <= rows_max, plan.text


@pytest.mark.parametrize("seqscan", ["off", "on"])
async def test_ledgers(holds: tuple[str, int], seqscan: str) -> None:
    """A page of ledgers reads one hold of each."""
    url, ledger = holds
    connection = await session(url, seqscan=seqscan)
    try:
        plan = await explain(connection, query("ledger_expiry_page"), (ledger - 1, LEDGERS_PAGE))
    finally:
        await connection.close()
    assert "transfer_progress" not in plan.scanned, plan.text
    assert plan.rows <= 2 * LEDGERS_PAGE + 1, plan.text
