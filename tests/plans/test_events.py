"""Reading and relaying events takes a page of rows from indexes, however long the feed is."""

import asyncpg
import pytest

from server.events.feed import ACCOUNT_MARGIN, EXAMINED_MAX
from server.store.sessions import SESSION_SETTINGS
from server.store.sql import query
from tests.plans.conftest import CHANGES, OUTBOX, TOLD
from tests.plans.plan import explain, session
from tests.plans.test_requests import counters
from tests.support.fill import BUSY

PAGE = 100
ALL = 1023
# Rows for an event: that of the feed, the transfer, and for an account the index entry; also the heads, and a page of
# ids.
EACH = 3
OF_ACCOUNT = PAGE + ACCOUNT_MARGIN

CASES = [
    pytest.param("event_page", (0, PAGE, ALL, PAGE, None), EACH * PAGE, id="first"),
    pytest.param("event_page", (TOLD // 2, PAGE, ALL, PAGE, None), EACH * PAGE, id="deep"),
    pytest.param("event_page", (2 * TOLD, PAGE, ALL, PAGE, None), 5, id="past the end"),
    pytest.param("event_page", (0, EXAMINED_MAX, 2, PAGE, None), CHANGES + EACH * PAGE, id="of a rare type"),
    pytest.param("event_page", (0, PAGE, 512, PAGE, None), PAGE + 2, id="of a type there is not"),
    pytest.param("event_page", (0, EXAMINED_MAX, 3, PAGE, None), EACH * EXAMINED_MAX, id="of a common and a rare one"),
    pytest.param(
        "event_page", (0, EXAMINED_MAX, ALL, PAGE, ["zebra:"]), EACH * EXAMINED_MAX, id="of accounts there are not"
    ),
    pytest.param("event_page_of_account", (0, OF_ACCOUNT, ALL, PAGE, BUSY), 8 * OF_ACCOUNT, id="busy"),
    pytest.param("event_page_of_account", (15_000, OF_ACCOUNT, ALL, PAGE, BUSY), 8 * OF_ACCOUNT, id="busy, deep"),
    pytest.param("event_page_of_account", (0, OF_ACCOUNT, ALL, PAGE, "other"), 8 * OF_ACCOUNT, id="quiet"),
    pytest.param("event_page_of_account", (0, OF_ACCOUNT, ALL, PAGE, "zebra"), 10, id="of an account there is not"),
    pytest.param("event_page_of_account", (2 * TOLD, OF_ACCOUNT, ALL, PAGE, BUSY), 10, id="nothing new"),
]


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize(("name", "arguments", "rows_max"), CASES)
async def test_page(
    told: tuple[str, int], name: str, arguments: tuple[object, ...], rows_max: int, seqscan: str
) -> None:
    """A page of events reads a page of each index."""
    url, ledger_id = told
    connection = await session(url, seqscan=seqscan)
    try:
        plan = await explain(connection, query(name), (ledger_id, *arguments))
    finally:
        await connection.close()
    assert plan.scanned == set(), plan.text
    assert plan.rows <= rows_max, f"{plan.rows} rows read, {rows_max} allowed\n{plan.text}"


async def test_every_index_is_needed(told: tuple[str, int]) -> None:
    """Each index of the feed finds rows for a page, or would for transfers that committed late."""
    url, ledger_id = told
    connection = await session(url, seqscan="off")
    try:
        there = await connection.fetch(
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'tallystick' AND tablename LIKE 'feed%'"
        )
        # The auditor needs this index; test_audit_pages.py has its statement.
        used = {"feed_changes_index"}
        for name, arguments in ((str(case.values[0]), case.values[1]) for case in CASES):
            assert isinstance(arguments, tuple)
            plan = await explain(connection, query(name), (ledger_id, *arguments))
            used |= {node["Index Name"] for node in plan.nodes if "Index Name" in node and node["Actual Loops"]}
        assert {row["indexname"] for row in there} - used == set()
    finally:
        await connection.close()


async def test_a_relay_reads_what_it_relays(told: tuple[str, int]) -> None:
    """However much was relayed before, the relay reads a batch and its transfers by index."""
    url, ledger_id = told
    tables = ("outbox", "feed", "feed_heads", "feed_accounts", "transfers")
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    await connection.execute(
        "INSERT INTO outbox (ledger_id, posted_at, transfers)"
        " SELECT $1, now(), array_agg(id) FROM (SELECT id FROM transfers WHERE ledger_id = $1 LIMIT 100) AS t",
        ledger_id,
    )
    await connection.close()
    before = await counters(url, tables)
    connection = await asyncpg.connect(url, server_settings=SESSION_SETTINGS)
    await connection.execute("SELECT FROM relay_outbox('0', '{}', 1000, 1000)")
    await connection.close()
    after = await counters(url, tables)
    assert {name: after[name][0] - before[name][0] for name in tables} == dict.fromkeys(tables, 0)
    # Each transfer once, and refused ones once more.
    assert sum(after[name][1] - before[name][1] for name in tables) <= 2 * 100 + 10


async def test_a_look_at_what_is_new(told: tuple[str, int]) -> None:
    """Rows that the relay has already taken cost it nothing, even while they cannot be vacuumed."""
    url, _ = told
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    reader = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    try:
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            await reader.fetchval("SELECT count(*) FROM ledgers")
            await connection.execute(OUTBOX)
            await connection.execute("DELETE FROM outbox")
            since = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
            plan = await explain(connection, "SELECT ctid FROM outbox WHERE transaction_id >= $1::text::xid8", (since,))
            buffers = sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in plan.nodes[:1])
            assert (plan.scanned, plan.rows) == (set(), 0), plan.text
            assert buffers <= 5, plan.text
    finally:
        await connection.close()
        await reader.close()
