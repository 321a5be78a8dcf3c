"""Migrations: once, in order, whole or not at all, whoever else does the same at that moment."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from server.http.cursors import write_cursor
from server.store import migrations
from server.store.migrations import MigrationError, expected_migrations, expected_names, migrate
from server.store.sql import sql_root
from tests.api.steps import pages
from tests.support.command import NO_REDIS, run
from tests.support.fill import fill
from tests.support.postgres import administer, create_empty_database, drop_database
from tests.support.service import in_process

FIRST = [
    "migration 0001_ledgers_accounts_transfers",
    "migration 0002_lists_in_the_order_of_posting",
    "function post_transfers",
    "grants",
]
LISTS = "0002_lists_in_the_order_of_posting.sql"
# All that a schema is made of, apart from oids.
SCHEMA = """
    SELECT 'column' AS kind, table_name || '.' || column_name AS name, data_type || is_nullable AS text
    FROM information_schema.columns WHERE table_schema = 'tallystick'
    UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = to_regnamespace('tallystick')
    UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'tallystick'
    UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = to_regnamespace('tallystick')
    UNION ALL SELECT 'grants', relname, coalesce(relacl::text, '') FROM pg_class
    WHERE relnamespace = to_regnamespace('tallystick')
    ORDER BY 1, 2, 3
"""
TABLES = ("ledgers", "api_keys", "accounts", "transfers", "schema_migrations", "schema_functions")
MIGRATE = "import asyncio, sys, pathlib; from server.store.migrations import migrate; "


@pytest.fixture
async def empty(template: str) -> AsyncIterator[str]:
    """A database without a schema."""
    url = await create_empty_database(template)
    yield url
    await drop_database(template, url)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of `sql/` to be changed."""
    return Path(shutil.copytree(sql_root(), tmp_path / "sql"))


async def schema(url: str) -> list[tuple[str, ...]]:
    return [tuple(row) for row in await administer(url, SCHEMA)]


async def contents(url: str) -> dict[str, list[asyncpg.Record]]:
    # The names of the tables are ours.
    return {table: await administer(url, f"SELECT * FROM tallystick.{table} ORDER BY 1, 2") for table in TABLES}


async def there(url: str, table: str) -> bool:
    return bool((await administer(url, "SELECT to_regclass($1) IS NOT NULL", f"tallystick.{table}"))[0][0])


async def test_twice(empty: str) -> None:
    """The first run does all, the second nothing."""
    assert await migrate(empty) == FIRST
    before = (await schema(empty), await contents(empty))
    assert await migrate(empty) == []
    assert (await schema(empty), await contents(empty)) == before


async def test_with_data(database_url: str, root: Path) -> None:
    """A further migration and a changed function leave every row as it was."""
    async with in_process(database_url) as service:
        client = await service.client("books")
        await client.fund("alice", 100)
        await client.open("bob")
        assert (await client.transfer("alice", "bob", 60)).status == 201
        assert (await client.transfer("alice", "bob", 60)).code == "insufficient_funds"
    before = await contents(database_url)
    assert await migrate(database_url) == []
    assert await contents(database_url) == before
    (root / "migrations" / "0003_more.sql").write_text("ALTER TABLE accounts ADD COLUMN more integer;")
    function = root / "functions" / "post_transfers.sql"
    function.write_text(function.read_text().replace("-- (5) Each account once", "-- (5) Once each account"))
    assert await migrate(database_url, root) == ["migration 0003_more", "function post_transfers"]
    after = await contents(database_url)
    assert after["transfers"] == before["transfers"]
    assert after["api_keys"] == before["api_keys"]
    assert [row[: len(old)] for row, old in zip(map(tuple, after["accounts"]), before["accounts"], strict=True)] == [
        tuple(row) for row in before["accounts"]
    ]


async def test_four_processes_at_once(empty: str, template: str) -> None:
    """On an empty database each step is done by one of them, and all of them succeed."""
    ended = await asyncio.gather(*(run("migrate", database_url=empty, redis_url=NO_REDIS) for _ in range(4)))
    assert [end.code for end in ended] == [0, 0, 0, 0], ended
    done = sorted(line for end in ended for line in end.out.splitlines() if line != "nothing to do")
    assert done == sorted(f"applied {line}" for line in FIRST)
    assert await migrate(empty) == []


async def test_killed(empty: str, root: Path) -> None:
    """One killed in the middle leaves nothing of that step behind, and nobody waits for it."""
    (root / "migrations" / "0003_slow.sql").write_text("CREATE TABLE half_done (id integer); SELECT pg_sleep(60);")
    code = MIGRATE + "asyncio.run(migrate(sys.argv[1], pathlib.Path(sys.argv[2])))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, empty, str(root))
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    while not (await administer(empty, asleep))[0][0]:
        assert child.returncode is None
    child.kill()
    await child.wait()
    assert await migrate(empty) == FIRST[2:]
    assert not await there(empty, "half_done")
    assert [row["number"] for row in (await contents(empty))["schema_migrations"]] == [1, 2]


async def test_another_is_at_it_for_long(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits too long for another's migration is told so."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 20)
    holder = await asyncpg.connect(empty)
    async with holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock($1::bigint)", migrations.LOCK_KEY)
        with pytest.raises(MigrationError, match="another process has been migrating"):
            await migrate(empty)
    await holder.close()
    assert await migrate(empty) == FIRST


async def test_edited(database_url: str, root: Path) -> None:
    """A migration that was changed after it was applied is refused, and nothing is done."""
    path = root / "migrations" / "0001_ledgers_accounts_transfers.sql"
    path.write_text(path.read_text() + "\n-- A word more.\n")
    (root / "migrations" / "0003_more.sql").write_text("CREATE TABLE more (id integer);")
    before = await schema(database_url)
    with pytest.raises(MigrationError, match="0001_ledgers_accounts_transfers was applied with another text"):
        await migrate(database_url, root)
    assert await schema(database_url) == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("0004_gap.sql", id="a gap"),
        pytest.param("0001_again.sql", id="a number twice"),
        pytest.param("0000_before.sql", id="a number below the first"),
        pytest.param("2_short.sql", id="a short number"),
        pytest.param("0003-hyphen.sql", id="a name of another form"),
        pytest.param("0003_Capital.sql", id="a capital"),
    ],
)
async def test_numbering(empty: str, root: Path, name: str) -> None:
    """Files that are not numbered 1, 2, 3, ... are refused before anything is done."""
    (root / "migrations" / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="numbered without gaps"):
        await migrate(empty, root)
    assert not await there(empty, "schema_migrations")


async def test_failing(empty: str, root: Path) -> None:
    """A migration that fails says which it is and leaves nothing; those before it stay; mended, it is applied."""
    bad = root / "migrations" / "0003_bad.sql"
    bad.write_text("CREATE TABLE half_done (id integer); SELECT 1 / 0;")
    with pytest.raises(MigrationError, match="0003_bad failed and was rolled back: division by zero"):
        await migrate(empty, root)
    assert not await there(empty, "half_done")
    assert [row["number"] for row in (await contents(empty))["schema_migrations"]] == [1, 2]
    bad.write_text("CREATE TABLE half_done (id integer);")
    assert await migrate(empty, root) == ["migration 0003_bad", *FIRST[2:]]
    assert await there(empty, "half_done")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("-- (1) Lock", "-- (1) First, lock", id="its text"),
        pytest.param("p_source_availables    bigint[],", "p_source_availables    numeric[],", id="an argument's type"),
        pytest.param("OUT pointers             text[],", "OUT pointers             json[],", id="a result's type"),
    ],
)
async def test_changed_functions(database_url: str, root: Path, old: str, new: str) -> None:
    """A function whose file changed is made again, and no other version of it stays beside it."""
    path = root / "functions" / "post_transfers.sql"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert await migrate(database_url, root) == ["function post_transfers"]
    assert await migrate(database_url, root) == []
    assert [name for kind, name, _ in await schema(database_url) if kind == "function"] == ["post_transfers"]
    assert await migrate(database_url) == ["function post_transfers"]


async def test_functions_changed_by_hand(database_url: str) -> None:
    """What somebody did to a function in the database itself is undone."""
    before = await schema(database_url)
    await administer(
        database_url,
        "DO $do$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef(oid), 'BEGIN', 'BEGIN NULL;') FROM pg_proc"
        " WHERE proname = 'post_transfers'); END $do$",
    )
    assert await schema(database_url) != before
    assert await migrate(database_url) == ["function post_transfers"]
    assert await schema(database_url) == before


@pytest.fixture
def first(root: Path) -> Path:
    """A copy of `sql/` that has only the first migration."""
    for path in (root / "migrations").glob("*.sql"):
        if not path.name.startswith("0001_"):
            path.unlink()
    return root


async def indexes(url: str) -> dict[str, str]:
    """Return the columns of the indexes of transfers by name."""
    rows = await administer(url, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'transfers'")
    return {row["indexname"]: row["indexdef"].partition("(")[2].partition(")")[0] for row in rows}


ORDERED = {
    "transfers_posted_index": "ledger_id, created_at, id",
    "transfers_reference_index": "ledger_id, reference, created_at, id",
    "transfers_source_reference_index": "ledger_id, source, reference, created_at, id",
    "transfers_destination_reference_index": "ledger_id, destination, reference, created_at, id",
}


@pytest.mark.parametrize("by_hand", [False, True], ids=["built by the migration", "built by hand beforehand"])
async def test_lists_in_the_order_of_posting(empty: str, first: Path, by_hand: bool) -> None:
    """A ledger of the first migration keeps its rows and as many indexes, and its lists follow the order of posting."""
    assert await migrate(empty, first) == [FIRST[0], *FIRST[2:]]
    before = await indexes(empty)
    connection = await asyncpg.connect(empty, server_settings={"search_path": "tallystick"})
    ledger_id = await connection.fetchval("INSERT INTO ledgers (name) VALUES ('old') RETURNING id")
    await fill(connection, ledger_id, accounts=100, transfers=2_000)
    # Their ids are in another order than their instants, as those of requests that arrived together may be.
    await connection.execute("UPDATE transfers SET id = uuidv7(interval '1 s' * (hashtext(idempotency_key) % 10000))")
    if by_hand:
        for statement in re.findall(r"CREATE INDEX IF [^;]*;", (sql_root() / "migrations" / LISTS).read_text()):
            await connection.execute(statement.replace("CREATE INDEX IF NOT EXISTS", "CREATE INDEX CONCURRENTLY"))
    await connection.close()
    rows = await contents(empty)
    assert await migrate(empty) == [FIRST[1]]
    assert {**before, **ORDERED} == await indexes(empty)
    assert (await contents(empty))["transfers"] == rows["transfers"]
    posted = [row for row in rows["transfers"] if row["refusal"] is None]
    posted.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
    queries: dict[str, Callable[[asyncpg.Record], bool]] = {
        "": lambda row: True,
        "reference=salary": lambda row: row["reference"] == "salary",
        "account=busy": lambda row: "busy" in (row["source"], row["destination"]),
        "reference=salary&account=busy": lambda row: (
            row["reference"] == "salary" and "busy" in (row["source"], row["destination"])
        ),
    }
    async with in_process(empty) as service:
        assert (await service.session.get(f"{service.url}/readyz")).status == 200
        client = await service.client("old")
        for query, chosen in queries.items():
            expected = [str(row["id"]) for row in posted if chosen(row)]
            found = [row["id"] for page in await pages(client, f"/v1/transfers?{query}", 100) for row in page]
            assert found == expected, query
            # A cursor of the version before, which names the last row seen by instant and id.
            cursor = write_cursor((posted[500]["created_at"], UUID(int=posted[500]["id"].int)))
            later = await client.get(f"/v1/transfers?{query}&limit=1&cursor={cursor}".replace("?&", "?"))
            assert later.json["data"][0]["id"] == next(str(row["id"]) for row in posted[501:] if chosen(row))


def test_names_follow_the_migrations(tmp_path: Path) -> None:
    """Names are those left in the end: added, dropped, made again, renamed, in the order in which it stands there."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    texts = [
        """
        CREATE TABLE t (a integer CONSTRAINT t_a_check CHECK (a > 0));
        CREATE INDEX t_index ON t (a);
        CREATE INDEX CONCURRENTLY t_gone ON t (a); -- CREATE INDEX t_said ON t (a);
        """,
        """
        DROP INDEX t_index;
        CREATE INDEX IF NOT EXISTS t_index ON t (a);
        CREATE INDEX t_other ON t (a);
        DROP INDEX IF EXISTS t_gone;
        ALTER TABLE t DROP CONSTRAINT t_a_check, ADD CONSTRAINT t_a_check CHECK (a > 1);
        """,
        "ALTER INDEX t_other RENAME TO t_gone; ALTER TABLE t DROP CONSTRAINT IF EXISTS t_a_check;",
    ]
    for number, text in enumerate(texts, 1):
        (folder / f"{number:04d}_step.sql").write_text(text)
    assert expected_names(expected_migrations(tmp_path)) == {"t_index", "t_gone"}
