"""
Finding what a sink has not been sent reads one index entry a ledger, and the feed only of ledgers with new events.
"""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.events.sinks.store import LEDGERS_PAGE
from server.store.sql import query
from tests.plans.plan import explain, session
from tests.support.postgres import create_database, drop_database

LEDGERS = 10_000
# Events of each ledger, and the number of ledgers in which the sink is behind.
EVENTS = 20
BEHIND = 100

_FILL = """
    WITH made AS (
        INSERT INTO ledgers (name) SELECT 'l' || n FROM generate_series(1, $1::bigint) AS n RETURNING id
    ), sink AS (
        INSERT INTO sinks (name, kind, options) VALUES ('sink', 'kafka', '{}') RETURNING id
    ), head AS (
        INSERT INTO feed_heads (ledger_id, position) SELECT id, $2::bigint FROM made
    ), sent AS (
        INSERT INTO sink_positions (ledger_id, sink_id, position)
        SELECT made.id, sink.id, CASE WHEN made.id % ($1 / $3::bigint) = 0 THEN 1 ELSE $2 END FROM made, sink
    ), told AS (
        INSERT INTO feed (ledger_id, position, size, types, posted_at, peak, account, change, link)
        SELECT id, n, 1, 128, now(), now(), 'alice', '{}', '' FROM made, generate_series(1, $2) AS n
    )
    SELECT sink.id, min(made.id) FROM sink, made GROUP BY sink.id
"""


@pytest.fixture(scope="module")
async def sent(template: str) -> AsyncIterator[tuple[str, int, int]]:
    """A database with many ledgers and a sink that is behind in some; with the ids of the sink and the first ledger."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    [(sink, ledger)] = await connection.fetch(_FILL, LEDGERS, EVENTS, BEHIND)
    await connection.execute("VACUUM (ANALYZE) ledgers, feed, feed_heads, sink_positions")
    await connection.close()
    yield url, sink, ledger
    await drop_database(template, url)


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize("of_one", [False, True], ids=["all ledgers", "one ledger"])
async def test_behind(sent: tuple[str, int, int], of_one: bool, seqscan: str) -> None:
    """Events that were sent are not read again, nor are events of other ledgers."""
    url, sink, ledger = sent
    connection = await session(url, seqscan=seqscan)
    try:
        arguments = (sink, ledger if of_one else None, 0, LEDGERS_PAGE)
        found = await connection.fetch(query("sink_behind_page"), *arguments)
        plan = await explain(connection, query("sink_behind_page"), arguments)
    finally:
        await connection.close()
    assert len(found) == BEHIND or of_one
    assert "feed" not in plan.scanned, plan.text
    assert plan.rows <= (3 if of_one else 2 * LEDGERS + 2 * BEHIND), plan.text


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize("name", ["sink_position_list", "sink_position_store"])
async def test_positions(sent: tuple[str, int, int], name: str, seqscan: str) -> None:
    """A sink's positions in some ledgers are read and stored by their keys."""
    url, sink, ledger = sent
    ledgers = list(range(ledger, ledger + 16))
    connection = await session(url, seqscan=seqscan)
    try:
        noted = (ledgers,) if name == "sink_position_list" else (ledgers, ledgers)
        plan = await explain(connection, query(name), (sink, *noted))
    finally:
        await connection.close()
    assert "sink_positions" not in plan.scanned, plan.text
    assert plan.rows <= 2 * len(ledgers) + 2, plan.text
