"""How requests use the tables: the statements inside functions, and the tables' counters over all routes."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import asyncpg
import pytest

from server.http.router import Router
from server.http.routes import ROUTES
from server.store.sessions import SESSION_SETTINGS
from server.store.sql import query, sql_root
from tests.plans.conftest import DUE, LEDGER, Large
from tests.plans.plan import explain, session
from tests.plans.test_plans import IDS, check
from tests.support.client import Client, new_key
from tests.support.fill import BUSY, SINK
from tests.support.service import in_process

TABLES = ("accounts", "transfers", "transfer_progress", "api_keys", "ledgers")
ROWS = len(IDS)
FUNCTIONS = ("post_transfers", "find_parents", "due_holds", "change_account")
# Each part of a statement names a table that it uses once.
TOUCHES = re.compile(r"\b(?:FROM|JOIN|INSERT INTO|UPDATE) (?:accounts|transfers|transfer_progress)\b")
# Arrays among a function's arguments and variables, and its single arguments, with their types.
DECLARED = re.compile(r"\b(\w+) +(?:CONSTANT +)?(\w+\[\])|\b(p_\w+) +(\w+)")
# Other variables that are used in statements over tables.
SINGLE = {"previews": "boolean", "merge": "jsonb", "due.holds": "bigint", "instant": "timestamptz"}


def texts(function: str) -> tuple[str, str]:
    """Return a function's head with its declarations, and its body, both without comments."""
    text = re.sub(r"--.*", "", (sql_root() / "functions" / f"{function}.sql").read_text())
    head, body, _ = text.split("$$")
    declarations, begin, statements = body.partition("BEGIN\n")
    return (head + declarations, statements) if begin else (head, body)


def statements(function: str) -> list[str]:
    """Return the statements over tables in a function."""
    found = []
    for text in texts(function)[1].split(";"):
        if TOUCHES.search(text):
            begin = re.search(r"\b(?:SELECT|INSERT|UPDATE)\b", text)
            assert begin is not None
            # The variables that receive the result.
            into = r"\bINTO (?!transfer)[a-z_,\s]+?(?=\bFROM\b|$)"
            found.append(re.sub(into, "", text[begin.start() :]))
    return found


def prepared(function: str, statement: str, values: dict[str, object]) -> tuple[str, tuple[object, ...]]:
    """
    Write a statement as plpgsql prepares it, with parameters for its variables; return it with their values from
    *values*.
    """
    kinds = {name or single: kind or of for name, kind, single, of in DECLARED.findall(texts(function)[0])} | SINGLE
    named: list[str] = []

    def parameter(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in kinds:
            return found[0]
        if name not in named:
            named.append(name)
        return f"(${named.index(name) + 1}::{kinds[name]})"

    # Names after AS, and before the equals sign of a SET, are columns.
    text = re.sub(
        r"'[^']*'|AS \w+ *\([^()]*\)|AS \w+|(?<![\w.])(?P<name>due\.holds|\w+)\b(?! *[.(=])", parameter, statement
    )
    return text, tuple(values[name] for name in named)


async def arguments(connection: asyncpg.Connection, held: Large) -> dict[str, object]:
    """Return values for all variables of a batch of many requests, each with its own accounts and parent."""
    ids = await connection.fetch(
        "SELECT id, idempotency_key AS key FROM transfers WHERE ledger_id = $1 AND moves LIMIT $2", held.ledger_id, ROWS
    )
    holds = await connection.fetch(
        "SELECT id FROM transfer_progress WHERE ledger_id = $1 LIMIT $2", held.ledger_id, ROWS
    )
    places = await connection.fetch(
        "SELECT ctid::text FROM accounts WHERE ledger_id = $1 AND id = ANY ($2)", held.ledger_id, IDS
    )
    half = ROWS // 2
    ones, nulls = [1] * ROWS, [None] * ROWS
    by_name: dict[str, object] = {
        "p_ledgers": [held.ledger_id],
        "p_last_accounts": [ROWS],
        "p_accounts": IDS,
        "p_keys": [f"flood-{number}" for number in range(1, ROWS + 1)],
        "posted_ats": [datetime.now(UTC)],
        # The account that all positions name is there and free.
        "currencies": ["EUR", *nulls[1:]],
        "places": [row["ctid"] for row in places],
        "progress_ids": [row["id"] for row in holds],
        "parent_ids": [row["id"] for row in holds],
        # Parents are named by id or by key.
        "p_parents": [*(row["id"] for row in ids[:half]), *nulls[half:]],
        "p_parent_keys": [*nulls[:half], *(row["key"] for row in ids[half:])],
        # Rows of known keys are not written.
        "outcomes": ["known"] * ROWS,
        "state_of": ["captured"] * ROWS,
        "expiry_of": [datetime.now(UTC)] * ROWS,
        "changed": [True] * ROWS,
        # No account has this version, so none is changed.
        "before": [0] * ROWS,
        "p_ledger_id": held.ledger_id,
        "p_account": BUSY,
        "p_at": datetime.now(UTC),
        "instant": datetime.now(UTC),
        "merge": "{}",
        "due.holds": DUE,
    }
    of_accounts = ("p_account_ledgers", "balances", "held_ins", "held_outs", "versions", "due_ins", "due_outs", "dues")
    of_requests = ("p_request_ledgers", "ledger_of", "source_of", "destination_of", "p_sources", "p_destinations")
    amounts = ("amount_of", "captured_of", "parent_amounts")
    by_name |= dict.fromkeys((*of_accounts, *of_requests, *amounts), ones)
    by_name |= dict.fromkeys(("remaining_of", "reversed_of"), [0] * ROWS)
    return defaultdict(lambda: nulls, by_name)


# What a batch does about accounts that another transaction has locked: wait, leave them out, or lock none.
MEETING = [
    pytest.param({"p_waits": [True], "previews": False}, id="waits"),
    pytest.param({"p_waits": [False], "previews": False}, id="leaves alone"),
    pytest.param({"p_waits": [None], "previews": True}, id="previews"),
]


@pytest.mark.parametrize("meeting", MEETING)
@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize("function", FUNCTIONS)
async def test_statements_of_functions(held: Large, function: str, seqscan: str, meeting: dict[str, object]) -> None:
    """Each statement of the functions that post and change reads only the rows that the batch names, by index."""
    off = {"enable_nestloop": "off"} if function in ("post_transfers", "find_parents") else {}
    connection = await session(held.url, seqscan=seqscan, **off)
    try:
        values = await arguments(connection, held)
        values |= meeting
        if function == "change_account":
            values |= {"p_set_floor": False, "p_set_ceiling": False, "p_floor": None, "p_ceiling": None}
            values |= {"p_closed": None, "p_clear": False}
        for statement in statements(function):
            check(await explain(connection, *prepared(function, statement, values)), ROWS)
    finally:
        await connection.close()


@pytest.mark.parametrize("seqscan", ["off", "on"])
async def test_locked_parents(held: Large, seqscan: str) -> None:
    """Finding out which parents are locked reads only their rows, twice."""
    connection = await session(held.url, seqscan=seqscan)
    try:
        parents = (await arguments(connection, held))["progress_ids"]
        names = [f"parent {parent}" for parent in parents]  # type: ignore[attr-defined]
        check(await explain(connection, query("row_locked_many"), (held.ledger_id, names)), 2 * ROWS)
    finally:
        await connection.close()


def test_functions_touch_tables_in_known_places() -> None:
    """
    These are all functions with statements that requests call, and every use of a table is in an extracted statement.
    """
    there = {path.stem for path in (sql_root() / "functions").glob("*.sql")}
    # The others use no tables, except the relay, which test_events.py covers.
    assert there == {
        *FUNCTIONS,
        "ledger_clock",
        "account_event",
        "change_text",
        "event_type",
        "transfer_text",
        "relay_outbox",
    }
    for function in FUNCTIONS:
        cut = sum(len(TOUCHES.findall(statement)) for statement in statements(function))
        assert cut == len(TOUCHES.findall(texts(function)[1])) > 0, function


async def test_every_index_of_holds_is_needed(held: Large) -> None:
    """Each index of open holds finds rows for a statement of a function, except the one for expiring them."""
    connection = await session(held.url, seqscan="off")
    used = set()
    try:
        values = await arguments(connection, held)
        values |= {"p_waits": [True], "previews": False}
        for function in ("post_transfers", "due_holds"):
            for statement in statements(function):
                plan = await explain(connection, *prepared(function, statement, values))
                used |= {node["Index Name"] for node in plan.nodes if "Index Name" in node and node["Actual Loops"]}
        there = await connection.fetch("SELECT indexname FROM pg_indexes WHERE tablename = 'transfer_progress'")
    finally:
        await connection.close()
    assert {row["indexname"] for row in there} - used == {"transfer_progress_expiry_index"}


CASES = [
    pytest.param("account_read_many", ([BUSY],), 1 + 2 * (DUE + 1), id="an account with thousands of open holds"),
    pytest.param("account_read_many", (IDS,), 4 * ROWS, id="many accounts with a few"),
    pytest.param("account_page", ("account:0005", "account:0005\x7f", "", 101), 5 * 101, id="a page of accounts"),
]


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize(("name", "values", "rows_max"), CASES)
async def test_reads_of_accounts_with_holds(
    held: Large, name: str, values: tuple[object, ...], rows_max: int, seqscan: str
) -> None:
    """Reads of accounts read only due holds and the next one to be due, on each side of each account."""
    connection = await session(held.url, seqscan=seqscan)
    try:
        check(await explain(connection, query(name), (held.ledger_id, *values)), rows_max)
    finally:
        await connection.close()


async def sessions_ended(connection: asyncpg.Connection) -> None:
    """Return when all other sessions have ended, after which their counters are complete."""
    while await connection.fetchval(  # noqa: ASYNC110 -- another program's end sets no event here
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    ):
        await asyncio.sleep(0.01)
    await connection.fetchval("SELECT pg_stat_clear_snapshot()")


async def counters(url: str, tables: Sequence[str] = TABLES) -> dict[str, tuple[int, int]]:
    """Return for each table the number of its scans, and of the rows read through its indexes."""
    connection = await asyncpg.connect(url)
    try:
        await sessions_ended(connection)
        rows = await connection.fetch("SELECT relname, seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables")
        return {row[0]: (row[1], row[2]) for row in rows if row[0] in tables}
    finally:
        await connection.close()


async def administer(client: Client, call: Callable[..., Awaitable[None]]) -> None:
    """Call every route of webhook endpoints and API keys."""
    webhooks = "/v1/webhook-endpoints"
    await call("POST", webhooks, {"url": "http://127.0.0.1:1/"})
    await call("GET", webhooks)
    webhook = f"{webhooks}/{(await client.get(webhooks)).json['data'][0]['id']}"
    for action in ("PATCH ", "POST /rotate-secret", "POST /test", "POST /replay", "DELETE "):
        for path in ("", "/deliveries", "/undelivered"):
            await call("GET", webhook + path)
        method, _, path = action.partition(" ")
        await call(method, webhook + path, {"from_position": 1} if path == "/replay" else {})
    keys = "/v1/api-keys"
    key = f"{keys}/{(await client.post(keys, {'role': 'read', 'accounts': ['account:']})).json['id']}"
    for asked in (f"POST {keys}", f"GET {keys}", f"GET {key}", f"PATCH {key}", f"POST {key}/rotate", f"DELETE {key}"):
        method, _, path = asked.partition(" ")
        await call(method, path, {"role": "read"} if asked == f"POST {keys}" else {})


async def call_all(client: Client, large: Large) -> None:
    """Call every route of the table."""
    called = set()

    async def call(method: str, path: str, value: object = None, **headers: str) -> None:
        route = Router(ROUTES).find(path.partition("?")[0])
        assert route is not None
        called.add(route[0][method].path)
        fields = {name.replace("_", "-"): text for name, text in headers.items()}
        assert (await client.send(method, path, value, headers=fields)).status in (200, 201, 207), path

    order = {"source": BUSY, "destination": SINK, "amount": 5, "currency": "EUR", "reference": "salary"}
    first, bulk = new_key(), [{"key": new_key(), **order, "source": source} for source in ("account:00000001", BUSY)]
    account = {"currency": "EUR", "floor": None}
    await call("POST", "/v1/accounts", {"id": f"fresh-{first}", **account})
    await call("POST", "/v1/accounts/bulk", {"accounts": [{"id": f"fresh-{first}-{n}", **account} for n in range(5)]})
    await call("PATCH", "/v1/accounts/account:00000001", {"metadata": {"a": "b"}, "ceiling": None})
    for _ in range(2):
        await call("POST", "/v1/transfers", order, Idempotency_Key=first)
        for atomic in (True, False):
            items = [{**item, "key": f"{item['key']}-{atomic}"} for item in bulk]
            await call("POST", "/v1/transfers/bulk", {"atomic": atomic, "transfers": items})
    minute = quote((large.middle_at + timedelta(milliseconds=500)).isoformat())
    await call("GET", f"/v1/balances?prefix=account:000000&at={minute}")
    await call("POST", "/v1/transfers/preview", order)
    for number, child in enumerate(("capture", "void", "reverse")):
        held = {**order, "hold": child != "reverse"}
        made = await client.send("POST", "/v1/transfers", held, headers={"Idempotency-Key": f"{first}-{number}"})
        await call("POST", f"/v1/transfers/{made.json['id']}/{child}", {}, Idempotency_Key=f"{first}-{child}")
        await call("GET", f"/v1/transfers/{made.json['id']}")
    for name in (BUSY, SINK, "account:00000001"):
        await call("GET", f"/v1/accounts/{name}")
        await call("GET", f"/v1/accounts/{name}?min_version=1")
        await call("GET", f"/v1/accounts/{name}/entries?limit=100")
        await call("GET", f"/v1/accounts/{name}/balance?at={quote(large.middle_at.isoformat())}")
        await call("GET", f"/v1/accounts/{name}/statement?from={quote(large.middle_at.isoformat())}&to={minute}")
        await call("GET", f"/v1/transfers?account={name}&limit=100")
        await call("GET", f"/v1/transfers?account={name}&reference=salary&limit=100")
        await call("GET", f"/v1/transfers?account={name}&kind=transfer&limit=50")
    for path in (
        "accounts?prefix=account:0009&limit=100",
        "transfers?limit=100",
        "transfers?reference=order-3&limit=100",
        "transfers?kind=hold&metadata.shop=7&limit=50",
        "ledger",
        "limits",
        "integrity",
        f"transfers/{large.middle_id}",
        f"idempotency-keys/{first}",
    ):
        await call("GET", f"/v1/{path}")
    for path in ("/v1/events", "/v1/events/stream"):
        await call("GET", f"{path}?after=0")
        await call("GET", f"{path}?after=0&account={SINK}&type=transfer.posted,account.updated")
    await administer(client, call)
    for path in ("/", "/livez", "/readyz", "/problems", "/problems/insufficient_funds"):
        await call("GET", path)
    unserved = {route.path for route in ROUTES if route.role is not None} - called
    assert not unserved, f"routes without a request here: {unserved}"


@pytest.mark.parametrize("seqscan", ["off", "on"])
async def test_no_request_reads_a_table(held: Large, seqscan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a request to every route, the tables' counters show no scan and few rows."""
    monkeypatch.setitem(SESSION_SETTINGS, "enable_seqscan", seqscan)
    before = await counters(held.url)
    async with in_process(held.url) as service:
        await call_all(await service.client(LEDGER), held)
    after = await counters(held.url)
    scans = {table: after[table][0] - before[table][0] for table in TABLES}
    rows = {table: after[table][1] - before[table][1] for table in TABLES}
    # With sequential scans enabled, a table of two rows, which is one page, is rightly scanned.
    assert {table: number for table, number in scans.items() if table != "ledgers"} == dict.fromkeys(TABLES[:-1], 0)
    # Some forty requests that each read at most a hundred rows on two sides.
    assert 0 < rows["transfers"] < 4_000, rows
    assert 0 < rows["accounts"] < 1_000, rows
    # The due holds of three accounts, and the next one to be due.
    assert 0 < rows["transfer_progress"] < 1_000, rows
