"""
A page of the auditor reads a page of rows, however large the ledger, and whatever the planner assumes of the tables.
"""

from collections.abc import Callable
from uuid import UUID

import pytest

from server.background.auditor import AUDITOR_SETTINGS
from server.ledger.audit_pages import SAMPLES_MAX, WAITING_MAX, Walk
from server.ledger.limits import TIME_MAX
from server.store.sql import query
from tests.plans.conftest import CHANGES, TOLD
from tests.plans.plan import explain, session
from tests.support.fill import BUSY

PAGE = 500
# Other rows that every statement may read: the head, and the rows before and after a page.
EDGES = 5
Arguments = Callable[[UUID, UUID], tuple[object, ...]]


def walks(limit: int, *accounts: str) -> Arguments:
    """Return the arguments of a walk over accounts from their first rows."""
    columns = [list(column) for column in zip(*map(Walk, accounts), strict=True)]
    return lambda _first, _last: (*columns, limit, TIME_MAX)


def of_transfers(name: str, each: int, *more: object) -> object:
    """Return the case of a statement over a page of transfers that reads *each* rows for every transfer."""
    return pytest.param(name, lambda first, last: (SAMPLES_MAX, first, last, *more), each * PAGE + EDGES, id=name)


# A hundred accounts, as a range of the index of accounts.
SOME = ("account:00000100", 0, "account:00000200", 0)
FEW = [f"account:{number:08d}" for number in range(50)]
CASES = [
    pytest.param("audit_head", lambda *_: (SAMPLES_MAX,), EDGES, id="audit_head"),
    pytest.param("feed_range", lambda *_: (TOLD // 2, PAGE), PAGE + EDGES, id="feed_range"),
    pytest.param(
        "audit_feed", lambda *_: (SAMPLES_MAX, TOLD // 2, TOLD // 2 + PAGE), 2 * PAGE + EDGES, id="audit_feed"
    ),
    pytest.param("transfer_range", lambda first, _: (first, PAGE), PAGE + EDGES, id="transfer_range"),
    # A change has a row in the index, and an account.
    pytest.param("audit_index", lambda *_: (SAMPLES_MAX, TOLD, TOLD + PAGE), 3 * PAGE + EDGES, id="audit_index"),
    pytest.param("index_range", lambda *_: ("account:00000100", 0, TOLD + CHANGES, 100), 100, id="index_range"),
    # A row of the index has a row of the feed.
    pytest.param("audit_indexed", lambda *_: (SAMPLES_MAX, *SOME), 2 * 100 + EDGES, id="audit_indexed"),
    # An account has its newest change.
    pytest.param(
        "audit_accounts",
        lambda *_: (SAMPLES_MAX, "account:00000100", "account:00000199", WAITING_MAX),
        2 * 100 + EDGES,
        id="audit_accounts",
    ),
    # Each transfer has its row of the feed.
    of_transfers("audit_told", 2, WAITING_MAX),
    of_transfers("audit_rows", 1),
    # Each transfer has two accounts.
    of_transfers("audit_sides", 3),
    of_transfers("audit_parents", 1),
    of_transfers("audit_progress", 1),
    pytest.param("account_range", lambda *_: ("account:00000500", PAGE), PAGE + EDGES, id="account_range"),
    pytest.param("audit_held", lambda *_: (SAMPLES_MAX, "account:00000100", "account:00000199"), 100, id="audit_held"),
    # A page of each of the two indexes of entries.
    pytest.param("audit_walk", walks(PAGE, BUSY), 2 * PAGE + EDGES, id="audit_walk along one account"),
    pytest.param("audit_walk", walks(10, *FEW), 2 * PAGE + EDGES * len(FEW), id="audit_walk along some"),
    pytest.param("audit_round_read", lambda *_: (), EDGES, id="audit_round_read"),
]


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize(("name", "arguments", "rows_max"), CASES)
async def test_page(told: tuple[str, int], name: str, arguments: Arguments, rows_max: int, seqscan: str) -> None:
    """Each statement of an audit page reads a page of rows and scans no large table."""
    url, ledger_id = told
    names = ("plan_cache_mode", "max_parallel_workers_per_gather", "enable_nestloop")
    own = {name: AUDITOR_SETTINGS[name] for name in names}
    connection = await session(url, seqscan=seqscan, **own)
    try:
        middle = "SELECT id FROM transfers WHERE ledger_id = $1 ORDER BY id OFFSET $2 LIMIT 1"
        first, last = [await connection.fetchval(middle, ledger_id, TOLD // 2 + n) for n in (0, PAGE - 1)]
        plan = await explain(connection, query(name), (ledger_id, *arguments(first, last)))
    finally:
        await connection.close()
    assert plan.scanned <= {"outbox"}, plan.text
    if name in ("audit_parents", "audit_progress"):
        assert "transfers_parent_index" in plan.text
    if name == "audit_accounts":
        assert "feed_changes_index" in plan.text
    assert plan.rows <= rows_max, f"{plan.rows} rows read, {rows_max} allowed\n{plan.text}"
