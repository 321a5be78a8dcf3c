"""No statement of a request path scans a table, or reads more rows than its page or batch needs."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from server.gate.key_store import KEYS_OF_LEDGER_MAX
from server.ledger.limits import BALANCE_MAX, PAGE_MAX, TIME_MAX, TIME_MIN
from server.ledger.statements import PAGE_ENTRIES
from server.ledger.summary import COUNTED_MAX
from server.ledger.transfer_lists import EXAMINED_MAX, ID_MAX
from server.store.sql import queries, query, sql_root
from tests.plans.conftest import ACCOUNTS, TRANSFERS, Large
from tests.plans.plan import Plan, explain, session
from tests.support.fill import BUSY, SINK, SPRING

# The files with statements that serve requests.
FILES = ("ledgers", "api_keys", "accounts", "transfers", "statements")
# Their statements that no request reaches, or whose plan shows nothing.
EXEMPT = {
    "ledger_list": "all ledgers, for the command line",
    "ledger_create": "an insert, for the command line",
    "api_key_withdraw": "an insert",
    "transfer_post_many": "a function call; test_requests.py has its statements one by one",
    "account_patch": "the same",
}
# Their statements that identify the caller, or that cover several ledgers.
WITHOUT_LEDGER = {"ledger_by_name", "api_key_read_many", "api_key_use_many", "transfer_by_keys", "clock_read"}
PAGE = PAGE_MAX + 1
# Rows read for a page: a page of each of two sides, and one more row of each to see that there are more.
TWO_SIDES = 2 * (PAGE + 1)
# The same for a page of a statement.
TWO_LONG_SIDES = 2 * (PAGE_ENTRIES + 1)
# `busy` takes part in four of every ten transfers, one in three of which is back-dated.
BACK_DATED = TRANSFERS * 4 // 30 + 2
# Rows read ahead of a page on up to four sides: an incremental sort begins with 32 or more.
AHEAD = 4 * 33
# Rows examined for a page that nothing matches.
IN_VAIN = EXAMINED_MAX + AHEAD

ACCOUNT = "account:00004711"
QUIET = "other"
IDS = [f"account:{n:08d}" for n in range(0, ACCOUNTS, 200)]
Arguments = Callable[[Large], tuple[object, ...]]


def case(name: str, rows_max: int, arguments: Arguments, why: str = "") -> object:
    return pytest.param(name, arguments, rows_max, id=f"{name} {why}".strip())


def entries(account: str, **at: datetime) -> Arguments:
    since, until = at.get("since", TIME_MIN), at.get("until", TIME_MAX)
    return lambda large: (account, since, until, TIME_MAX, BALANCE_MAX, PAGE)


def listed(
    *texts: str,
    deep: bool = False,
    kind: str | None = None,
    metadata: str | None = None,
    examined: int = PAGE,
    accounts: list[str] | None = None,
) -> Arguments:
    """Return the arguments of a page of transfers; *texts* are a reference and an account."""
    chosen = (TIME_MIN, kind, metadata, examined, PAGE, accounts, *texts)
    return lambda at: (*((at.middle_at, at.middle_id) if deep else (TIME_MAX, ID_MAX)), *chosen)


CASES = [
    case("ledger_by_name", 1, lambda _: ("large",)),
    case("api_key_read_many", 1, lambda at: ([at.ledger_id], [f"{4711:016x}"]), "one"),
    case("api_key_read_many", 100, lambda at: ([at.ledger_id] * 100, [f"{n:016x}" for n in range(1, 101)]), "a batch"),
    case("api_key_read_many", 0, lambda _: (list(range(1_000, 1_100)), [f"{4711:016x}"] * 100), "of no ledger"),
    case("api_key_read", 2, lambda _: (f"{4711:016x}", None)),
    case(
        "api_key_create",
        KEYS_OF_LEDGER_MAX + 10,
        lambda _: ("f" * 16, bytes(32), "read", *[None] * 7, KEYS_OF_LEDGER_MAX),
        "in a full ledger",
    ),
    case("api_key_page", 101, lambda _: (101, None, datetime(2100, 1, 1, tzinfo=UTC), "g")),
    case(
        "api_key_change",
        2,
        lambda _: (f"{4711:016x}", None, ["rate", "burst"], 5, 1, 5, 5, None, None, None, None, None, None),
    ),
    case("api_key_rotate", 2, lambda _: (f"{4711:016x}", None, bytes(32), 60, 4)),
    case("api_key_locked_many", 401, lambda _: ([f"{n:016x}" for n in range(1, 201)],)),
    case("api_key_revoke", 2, lambda _: (f"{4711:016x}", None)),
    case(
        "api_key_use_many",
        300,
        lambda at: ([at.ledger_id] * 100, [f"{n:016x}" for n in range(1, 101)], [0.0] * 100),
        "a batch",
    ),
    # Accounts and transfers up to the limit of the count, the ledger, its head, its round, and its four ends.
    case("ledger_summary", 2 * COUNTED_MAX + 7, lambda _: (COUNTED_MAX,)),
    case("account_read_many", 1, lambda _: ([ACCOUNT],), "one"),
    case("account_read_many", 500, lambda _: (IDS,), "a batch"),
    case("row_locked_many", 1001, lambda _: (IDS,)),
    case("account_clock_many", 3, lambda _: ([ACCOUNT],), "one"),
    case("account_clock_many", 3 * len(IDS), lambda _: (IDS,), "a batch"),
    case("account_clock_many_waiting", 2, lambda _: ([ACCOUNT],), "one"),
    case("account_clock_many_waiting", 2 * len(IDS), lambda _: (IDS,), "a batch"),
    case(
        "account_create_many",
        1000,
        lambda _: (
            [*IDS, *(f"new:{n}" for n in range(500))],
            ["EUR"] * 1000,
            [0] * 1000,
            [None] * 1000,
            ["{}"] * 1000,
            "25",
        ),
    ),
    case("account_limit_many", 500, lambda _: (IDS, [5] * 500, [None] * 500, [False] * 500, "250")),
    case("account_page", PAGE, lambda _: ("", "\x7f", "", PAGE), "first"),
    case("account_page", PAGE, lambda _: ("", "\x7f", "account:00090000", PAGE), "deep"),
    case("account_page", PAGE, lambda _: ("account:0005", "account:0005\x7f", "account:00055000", PAGE), "of a prefix"),
    case("account_page", 1, lambda _: ("zebra", "zebra\x7f", "", PAGE), "empty"),
    case("entry_page", TWO_SIDES, entries(BUSY), "busy"),
    case("entry_page", TWO_SIDES, entries(SINK), "one side only, in"),
    case("entry_page", TWO_SIDES, entries(SPRING), "one side only, out"),
    case("entry_page", TWO_SIDES, entries(QUIET), "quiet"),
    case("entry_page", TWO_SIDES, lambda at: (BUSY, TIME_MIN, TIME_MAX, at.middle_at, at.middle_version, PAGE), "deep"),
    case(
        "entry_page",
        TWO_SIDES,
        lambda at: (BUSY, at.middle_at - timedelta(seconds=1), at.middle_at, TIME_MAX, BALANCE_MAX, PAGE),
        "of a second long ago",
    ),
    case("account_balance_at", 5, lambda at: (BUSY, at.middle_at), "long ago"),
    case("account_balance_at", 5, lambda _: (SINK, datetime.now(UTC)), "now"),
    case("account_balance_at", 5, lambda _: (BUSY, datetime(2001, 1, 1, tzinfo=UTC)), "before all"),
    case("account_balance_effective_at", BACK_DATED, lambda at: (SINK, at.middle_at, at.middle_at), "as of then"),
    case("account_balance_effective_at", BACK_DATED, lambda at: (BUSY, at.days_ago, TIME_MAX), "long ago"),
    case(
        "account_balance_effective_at", 5, lambda _: (QUIET, datetime(2001, 1, 1, tzinfo=UTC), TIME_MAX), "before all"
    ),
    case("statement_page", TWO_LONG_SIDES, lambda _: (BUSY, TIME_MIN, 0, TIME_MAX, PAGE_ENTRIES), "first"),
    case(
        "statement_page",
        TWO_LONG_SIDES,
        lambda at: (BUSY, at.middle_at, at.middle_version, TIME_MAX, PAGE_ENTRIES),
        "deep",
    ),
    case("statement_page", TWO_LONG_SIDES, lambda at: (SINK, at.middle_at, 0, TIME_MAX, PAGE_ENTRIES), "one side only"),
    case(
        "statement_page", 0, lambda _: (BUSY, TIME_MIN, 0, datetime(2001, 1, 1, tzinfo=UTC), PAGE_ENTRIES), "before all"
    ),
    case(
        "statement_page_back_dated",
        TWO_LONG_SIDES,
        lambda _: (BUSY, TIME_MIN, TIME_MIN, 0, TIME_MAX, TIME_MAX, PAGE_ENTRIES),
        "first",
    ),
    case(
        "statement_page_back_dated",
        TWO_LONG_SIDES,
        lambda at: (BUSY, at.days_ago, at.middle_at, at.middle_version, TIME_MAX, TIME_MAX, PAGE_ENTRIES),
        "deep in a day for which many count",
    ),
    case(
        "statement_page_back_dated",
        0,
        lambda at: (BUSY, TIME_MIN, TIME_MIN, 0, at.days_ago - timedelta(days=99), TIME_MAX, PAGE_ENTRIES),
        "before all",
    ),
    case("clock_read", 0, lambda _: ()),
    case("trial_balance", ACCOUNTS + 4, lambda _: ([""], ["\x7f"], 9), "all"),
    case("trial_balance", 1_000, lambda _: (["account:00055"], ["account:00055\x7f"], 9), "of a prefix"),
    case("trial_balance", 0, lambda _: (["zebra:"], ["zebra:\x7f"], 9), "of none"),
    case(
        "trial_balance",
        2_000,
        lambda _: (["account:00033", "account:00055"], ["account:00033\x7f", "account:00055\x7f"], 9),
        "of two",
    ),
    case(
        "trial_balance_at",
        1_000 * 5,
        lambda at: (["account:00055"], ["account:00055\x7f"], at.middle_at, 9),
        "of a prefix",
    ),
    case("trial_balance_at", 5, lambda at: ([BUSY], [BUSY + "\x7f"], at.middle_at, 9), "of one busy account"),
    case("transfer_by_key", 1, lambda _: ("flood-7",)),
    case("transfer_by_keys", 1, lambda at: ([at.ledger_id], ["flood-7"]), "one"),
    case("transfer_by_keys", 500, lambda at: ([at.ledger_id] * 500, [f"flood-{n}" for n in range(1, 501)]), "a batch"),
    case("transfer_by_keys", 0, lambda _: (list(range(1_000, 1_500)), ["flood-7"] * 500), "of other ledgers"),
    case("transfer_by_id", 1, lambda at: (at.middle_id,)),
    case("transfer_children", 1, lambda at: (at.middle_id, 100)),
    case("transfer_page", TWO_SIDES, listed(), "past a flood of refusals"),
    case("transfer_page", TWO_SIDES, listed(deep=True), "deep"),
    case("transfer_page", TWO_SIDES, listed(kind="hold", examined=EXAMINED_MAX), "of a kind"),
    case("transfer_page", TWO_SIDES, listed(kind="transfer", examined=EXAMINED_MAX), "behind many of other kinds"),
    case("transfer_page", IN_VAIN, listed(kind="reversal", examined=EXAMINED_MAX), "of a kind there is not"),
    case("transfer_page", IN_VAIN, listed(kind="expiry", examined=EXAMINED_MAX), "of a kind there is not, held"),
    case("transfer_page", IN_VAIN, listed(metadata='{"shop":"8"}', examined=EXAMINED_MAX), "of nobody's metadata"),
    case("transfer_page", IN_VAIN, listed(metadata='{"shop":"7"}', deep=True, examined=EXAMINED_MAX), "the same, deep"),
    case(
        "transfer_page",
        4,
        lambda at: (at.middle_at, at.middle_id, at.middle_at, None, None, PAGE, PAGE, None),
        "a moment",
    ),
    case("transfer_page", IN_VAIN, listed(accounts=["zebra:"], examined=EXAMINED_MAX), "of hidden accounts"),
    case("transfer_sides_many", 2, lambda at: ([at.middle_id], ["hold-17"]), "one of each"),
    case("transfer_sides_many", 1_000, lambda at: ([], [f"hold-{n}" for n in range(1, 1_001)]), "a bulk"),
    case("transfer_sides_many", 1, lambda at: ([UUID(int=1)], ["nobody's"]), "of none"),
    case("transfer_page_by_reference", TWO_SIDES, listed("order-3"), "first"),
    case("transfer_page_by_reference", TWO_SIDES, listed("salary", deep=True), "deep"),
    case("transfer_page_by_reference", 0, listed("flood"), "of refusals only"),
    case("transfer_page_by_reference", IN_VAIN, listed("salary", kind="capture", examined=EXAMINED_MAX), "of no kind"),
    case("transfer_page_by_reference_and_account", TWO_SIDES, listed("order-3", BUSY), "both common"),
    case("transfer_page_by_reference_and_account", TWO_SIDES, listed("salary", BUSY, deep=True), "deep"),
    case("transfer_page_by_reference_and_account", TWO_SIDES, listed("salary", QUIET), "common, none"),
    case(
        "transfer_page_by_reference_and_account",
        IN_VAIN,
        listed("salary", BUSY, metadata='{"shop":"8"}', examined=EXAMINED_MAX),
        "of nobody's metadata",
    ),
    case("transfer_page_by_account", TWO_SIDES, listed(BUSY), "busy"),
    case("transfer_page_by_account", TWO_SIDES, listed(SINK), "one side only, in"),
    case("transfer_page_by_account", TWO_SIDES, listed(SPRING), "one side only, out"),
    case("transfer_page_by_account", TWO_SIDES, listed(BUSY, deep=True), "deep"),
    case("transfer_page_by_account", 2 * PAGE + AHEAD, listed(BUSY, kind="void", examined=EXAMINED_MAX), "one in two"),
    case("transfer_page_by_account", TWO_SIDES, listed(BUSY, kind="transfer", examined=EXAMINED_MAX), "behind holds"),
    case("transfer_page_by_account", IN_VAIN, listed(BUSY, kind="reversal", examined=EXAMINED_MAX), "of no kind"),
    case(
        "transfer_page_by_account",
        IN_VAIN,
        listed(BUSY, metadata='{"shop":"8"}', deep=True, examined=EXAMINED_MAX),
        "of nobody's metadata",
    ),
]


def check(plan: Plan, rows_max: int) -> None:
    assert plan.scanned == set(), plan.text
    assert plan.rows <= rows_max, f"{plan.rows} rows read, {rows_max} allowed\n{plan.text}"


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize(("name", "arguments", "rows_max"), CASES)
async def test_statement(large: Large, name: str, arguments: Arguments, rows_max: int, seqscan: str) -> None:
    """An index answers each statement, whether or not sequential scans are enabled."""
    connection = await session(large.url, seqscan=seqscan)
    try:
        ledger = () if name in WITHOUT_LEDGER else (large.ledger_id,)
        check(await explain(connection, query(name), (*ledger, *arguments(large))), rows_max)
    finally:
        await connection.close()


async def test_every_index_is_needed(large: Large) -> None:
    """Each index finds rows for a statement here; an unused index would only slow postings down."""
    connection = await session(large.url, seqscan="off")
    try:
        there = await connection.fetch(
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'tallystick' AND tablename = ANY ($1)",
            ["ledgers", "api_keys", "accounts", "transfers"],
        )
        used = set()
        for name, arguments, _ in (values.values for values in CASES):  # type: ignore[attr-defined]  # pytest's
            ledger = () if name in WITHOUT_LEDGER else (large.ledger_id,)
            plan = await explain(connection, query(name), (*ledger, *arguments(large)))
            used |= {node["Index Name"] for node in plan.nodes if "Index Name" in node and node["Actual Loops"]}
        assert {row["indexname"] for row in there} - used == set()
    finally:
        await connection.close()


async def test_back_dated_amounts_are_summed_from_the_index(large: Large) -> None:
    """Back-dated amounts are summed from the index alone, however many there are."""
    connection = await session(large.url, seqscan="off")
    try:
        arguments = (large.ledger_id, BUSY, large.days_ago, TIME_MAX)
        plan = await explain(connection, query("account_balance_effective_at"), arguments)
        scans = [node for node in plan.nodes if "effective" in node.get("Index Name", "")]
        assert [node["Node Type"] for node in scans] == ["Index Only Scan"] * 2, plan.text
        assert [node["Heap Fetches"] for node in scans] == [0, 0], plan.text
        assert sum(node["Actual Rows"] for node in scans) > 1_000, plan.text
    finally:
        await connection.close()


ORDERED = [
    pytest.param("transfer_page", (), id="all"),
    pytest.param("transfer_page_by_reference", ("salary",), id="by reference"),
    pytest.param("transfer_page_by_reference_and_account", ("salary", BUSY), id="by reference and account"),
]


@pytest.mark.parametrize("examined", [PAGE, EXAMINED_MAX])
@pytest.mark.parametrize(("name", "texts"), ORDERED)
async def test_a_page_is_read_in_its_order(large: Large, name: str, texts: tuple[str, ...], examined: int) -> None:
    """A page of a list is read in the order of its indexes and needs no sort, however many rows follow."""
    arguments = listed(*texts, examined=examined)(large)
    connection = await session(large.url, seqscan="off")
    try:
        plan = await explain(connection, query(name), (large.ledger_id, *arguments))
        assert not [node for node in plan.nodes if "Sort" in node["Node Type"]], plan.text
    finally:
        await connection.close()


async def test_a_page_of_an_account_sorts_no_more_than_one_instant(large: Large) -> None:
    """The indexes of an account have instants but no ids, so only rows of the same instant are sorted."""
    connection = await session(large.url, seqscan="off")
    try:
        arguments = listed(BUSY, kind="reversal", examined=EXAMINED_MAX)(large)
        plan = await explain(connection, query("transfer_page_by_account"), (large.ledger_id, *arguments))
        assert not [node for node in plan.nodes if node["Node Type"] == "Sort"], plan.text
    finally:
        await connection.close()


def test_every_statement_is_looked_at() -> None:
    """Every statement of these files has a case here or a reason for none."""
    heads = re.compile(r"^-- name: (\w+)\(", re.MULTILINE)
    texts = [(sql_root() / "queries" / f"{name}.sql").read_text() for name in FILES]
    named = {name for text in texts for name in heads.findall(text)}
    assert named <= set(queries())
    looked_at = {values.values[0] for values in CASES}  # type: ignore[attr-defined]  # a set of pytest's parameters
    assert looked_at & set(EXEMPT) == set()
    assert named == looked_at | set(EXEMPT)
