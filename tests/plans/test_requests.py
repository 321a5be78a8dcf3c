"""What requests really do to the tables: the statements inside the posting function, and counters over all routes."""

import asyncio
import re
from urllib.parse import quote

import asyncpg
import pytest

from server.http.routes import ROUTES, Router
from server.store.sessions import SESSION_SETTINGS
from server.store.sql import sql_root
from tests.plans.conftest import LEDGER, Large
from tests.plans.plan import explain, session
from tests.plans.test_plans import IDS, check
from tests.support.client import Client, new_key
from tests.support.fill import BUSY, SINK
from tests.support.service import in_process

TABLES = ("accounts", "transfers", "api_keys", "ledgers")
# A table is named once in each statement of the function that touches it.
TOUCHES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE) (?:accounts|transfers)\b")
# The function's statements over tables, each from where it is to be cut out; variables become parameters, in order.
POSTING = {
    "lock": (
        r"(SELECT array_agg\(l\.position::integer\), array_agg\(a\.id\).*?) INTO found.*?( FROM \(.*?\) AS a);",
        {"p_ledgers": "bigint[]", "p_last_accounts": "integer[]", "p_waits": "boolean[]", "p_accounts": "text[]"},
    ),
    "locked": (
        r"(SELECT array_agg\(w\.position\)) INTO locked(.*?);",
        {
            "p_account_ledgers": "integer[]",
            "p_accounts": "text[]",
            "currencies": "text[]",
            "p_waits": "boolean[]",
            "p_ledgers": "bigint[]",
        },
    ),
    "keys": (
        r"(SELECT array_agg\(w\.position\)) INTO known(.*?);",
        {"p_keys": "text[]", "p_sources": "integer[]", "p_ledgers": "bigint[]", "p_account_ledgers": "integer[]"},
    ),
    "update": (
        r"(UPDATE accounts AS a.*?);",
        {
            "places": "tid[]",
            "p_account_ledgers": "integer[]",
            "balances": "bigint[]",
            "versions": "bigint[]",
            "before": "bigint[]",
            "posted_ats": "timestamptz[]",
            "p_ledgers": "bigint[]",
        },
    ),
}
ROWS = len(IDS)


def body() -> str:
    """Return the text of the function without its comments."""
    text = (sql_root() / "functions" / "post_transfers.sql").read_text()
    return re.sub(r"--.*", "", text.split("$$")[1])


def statement(name: str) -> str:
    """Cut a statement out of the function, as plpgsql prepares it."""
    pattern, variables = POSTING[name]
    found = re.search(pattern, body(), re.DOTALL)
    assert found is not None, name
    text = "".join(found.groups())
    for number, (variable, kind) in enumerate(variables.items(), 1):
        text = re.sub(rf"(?<![\w.]){variable}\b(?= *[\[,)])", f"(${number}::{kind})", text)
    return text


@pytest.mark.parametrize("seqscan", ["off", "on"])
async def test_posting_statements(large: Large, seqscan: str) -> None:
    """Locking, looking keys up and updating a batch of accounts each read what the batch names, and no more."""
    keys = [f"flood-{number}" for number in range(1, ROWS + 1)]
    ledgers, numbers = [1] * ROWS, [7] * ROWS
    now = "2026-01-01T00:00:00Z"
    connection = await session(large.url, seqscan=seqscan, enable_nestloop="off")
    try:
        for waits in (True, False):
            check(await explain(connection, statement("lock"), ([large.ledger_id], [ROWS], [waits], IDS)), ROWS)
        locked = (ledgers, IDS, [None] * ROWS, [False], [large.ledger_id])
        check(await explain(connection, statement("locked"), locked), ROWS)
        check(await explain(connection, statement("keys"), (keys, ledgers, [large.ledger_id], ledgers)), ROWS)
        # All of them are read, and none is changed: they are at another version.
        update = (await places(connection, large), ledgers, numbers, numbers, [6] * ROWS, [now], [large.ledger_id])
        check(await explain(connection, statement("update"), update), ROWS)
    finally:
        await connection.close()


async def places(connection: asyncpg.Connection, large: Large) -> list[str]:
    """Return where the accounts are."""
    rows = await connection.fetch(
        "SELECT ctid::text FROM accounts WHERE ledger_id = $1 AND id = ANY ($2)", large.ledger_id, IDS
    )
    return [row["ctid"] for row in rows]


def test_no_posting_statement_is_left_out() -> None:
    """The function touches tables in the statements looked at, of which the first has two parts, and in one insert."""
    assert len(TOUCHES.findall(body())) == len(POSTING) + 2


async def sessions_ended(connection: asyncpg.Connection) -> None:
    """Return when all other sessions have ended: their counts are there then."""
    while await connection.fetchval(  # noqa: ASYNC110 -- another program's end sets no event here
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    ):
        await asyncio.sleep(0.01)
    await connection.fetchval("SELECT pg_stat_clear_snapshot()")


async def counters(url: str) -> dict[str, tuple[int, int]]:
    """Return for each table how often it was read from end to end, and the rows read through its indexes."""
    connection = await asyncpg.connect(url)
    try:
        await sessions_ended(connection)
        rows = await connection.fetch("SELECT relname, seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables")
        return {row[0]: (row[1], row[2]) for row in rows if row[0] in TABLES}
    finally:
        await connection.close()


async def call_all(client: Client, large: Large) -> None:
    """Ask for something through every route of the table."""
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
    for name in (BUSY, SINK, "account:00000001"):
        await call("GET", f"/v1/accounts/{name}")
        await call("GET", f"/v1/accounts/{name}?min_version=1")
        await call("GET", f"/v1/accounts/{name}/entries?limit=100")
        await call("GET", f"/v1/accounts/{name}/balance?at={quote(large.middle_at.isoformat())}")
        await call("GET", f"/v1/transfers?account={name}&limit=100")
        await call("GET", f"/v1/transfers?account={name}&reference=salary&limit=100")
    await call("GET", "/v1/accounts?prefix=account:0009&limit=100")
    await call("GET", "/v1/transfers?limit=100")
    await call("GET", "/v1/transfers?reference=order-3&limit=100")
    await call("GET", f"/v1/transfers/{large.middle_id}")
    await call("GET", f"/v1/idempotency-keys/{first}")
    for path in ("/livez", "/readyz", "/problems", "/problems/insufficient_funds"):
        await call("GET", path)
    unserved = {route.path for route in ROUTES if route.role is not None} - called
    assert not unserved, f"routes without a request here: {unserved}"


@pytest.mark.parametrize("seqscan", ["off", "on"])
async def test_no_request_reads_a_table(large: Large, seqscan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route is asked, and the tables' own counters saw no scan and few rows."""
    monkeypatch.setitem(SESSION_SETTINGS, "enable_seqscan", seqscan)
    before = await counters(large.url)
    async with in_process(large.url) as service:
        await call_all(await service.client(LEDGER), large)
    after = await counters(large.url)
    scans = {table: after[table][0] - before[table][0] for table in TABLES}
    rows = {table: after[table][1] - before[table][1] for table in TABLES}
    # A table of two rows is one page: nothing is gained by an index there, when scans are offered.
    assert {table: number for table, number in scans.items() if table != "ledgers"} == dict.fromkeys(TABLES[:3], 0)
    # Some forty requests of at most a hundred rows from two sides.
    assert 0 < rows["transfers"] < 4_000, rows
    assert 0 < rows["accounts"] < 1_000, rows
