"""Migrations are applied once, in order, completely or not at all, even by several processes at once."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from server.store import migrations
from server.store.migrations import MigrationError, expected_functions, expected_migrations, expected_names, migrate
from server.store.sql import sql_root
from tests.support.command import NO_REDIS, run
from tests.support.postgres import administer, create_empty_database, drop_database
from tests.support.service import in_process

FIRST = [
    *(f"migration {migration.number:04d}_{migration.name}" for migration in expected_migrations()),
    *(f"function {name}" for name in expected_functions()),
    "grants",
]
APPLIED = len(expected_migrations())
# The number of the next migration.
NEXT = f"{APPLIED + 1:04d}"
# Everything in a schema except oids.
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
TABLES = ("ledgers", "api_keys", "accounts", "transfers", "transfer_progress", "schema_migrations", "schema_functions")
MIGRATE = "import asyncio, sys, pathlib; from server.store.migrations import migrate; "


@pytest.fixture
async def empty(template: str) -> AsyncIterator[str]:
    """A database without a schema."""
    url = await create_empty_database(template)
    yield url
    await drop_database(template, url)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of `sql/` that a test may change."""
    return Path(shutil.copytree(sql_root(), tmp_path / "sql"))


async def schema(url: str) -> list[tuple[str, ...]]:
    return [tuple(row) for row in await administer(url, SCHEMA)]


async def contents(url: str) -> dict[str, list[asyncpg.Record]]:
    # The names are constants of this file, so the statement may contain them.
    return {table: await administer(url, f"SELECT * FROM tallystick.{table} ORDER BY 1, 2") for table in TABLES}


async def there(url: str, table: str) -> bool:
    return bool((await administer(url, "SELECT to_regclass($1) IS NOT NULL", f"tallystick.{table}"))[0][0])


async def test_twice(empty: str) -> None:
    """The first run applies everything, the second nothing."""
    assert await migrate(empty) == FIRST
    before = (await schema(empty), await contents(empty))
    assert await migrate(empty) == []
    assert (await schema(empty), await contents(empty)) == before


async def test_with_data(database_url: str, root: Path) -> None:
    """A new migration and a changed function leave every row as it was."""
    async with in_process(database_url) as service:
        client = await service.client("books")
        await client.fund("alice", 100)
        await client.open("bob")
        assert (await client.transfer("alice", "bob", 60)).status == 201
        assert (await client.transfer("alice", "bob", 60)).code == "insufficient_funds"
        assert (await client.transfer("alice", "bob", 10, hold=True)).status == 201
    before = await contents(database_url)
    assert await migrate(database_url) == []
    assert await contents(database_url) == before
    (root / "migrations" / f"{NEXT}_more.sql").write_text("ALTER TABLE accounts ADD COLUMN more integer;")
    function = root / "functions" / "post_transfers.sql"
    function.write_text(function.read_text().replace("-- (5) Each account once", "-- (5) Once each account"))
    assert await migrate(database_url, root) == [f"migration {NEXT}_more", "function post_transfers"]
    after = await contents(database_url)
    assert after["transfers"] == before["transfers"]
    assert after["transfer_progress"] == before["transfer_progress"] != []
    assert after["api_keys"] == before["api_keys"]
    assert [row[: len(old)] for row, old in zip(map(tuple, after["accounts"]), before["accounts"], strict=True)] == [
        tuple(row) for row in before["accounts"]
    ]


async def test_four_processes_at_once(empty: str, template: str) -> None:
    """If four processes migrate an empty database at once, each step is done by one of them, and all succeed."""
    ended = await asyncio.gather(*(run("migrate", database_url=empty, redis_url=NO_REDIS) for _ in range(4)))
    assert [end.code for end in ended] == [0, 0, 0, 0], ended
    done = sorted(line for end in ended for line in end.out.splitlines() if line != "nothing to do")
    assert done == sorted(f"applied {line}" for line in FIRST)
    assert await migrate(empty) == []


async def test_killed(empty: str, root: Path) -> None:
    """A process that is killed in the middle leaves nothing behind, and the next one does not wait for it."""
    (root / "migrations" / f"{NEXT}_slow.sql").write_text("CREATE TABLE half_done (id integer); SELECT pg_sleep(60);")
    code = MIGRATE + "asyncio.run(migrate(sys.argv[1], pathlib.Path(sys.argv[2])))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, empty, str(root))
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    while not (await administer(empty, asleep))[0][0]:
        assert child.returncode is None
    child.kill()
    await child.wait()
    assert not await there(empty, "transfers")
    assert await migrate(empty) == FIRST
    assert not await there(empty, "half_done")


async def test_another_is_at_it_for_long(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits too long for another's migration fails and says why."""
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
    (root / "migrations" / f"{NEXT}_more.sql").write_text("CREATE TABLE more (id integer);")
    before = await schema(database_url)
    with pytest.raises(MigrationError, match="0001_ledgers_accounts_transfers was applied with another text"):
        await migrate(database_url, root)
    assert await schema(database_url) == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"{APPLIED + 2:04d}_gap.sql", id="a gap"),
        pytest.param("0001_again.sql", id="a number twice"),
        pytest.param("0000_before.sql", id="a number below the first"),
        pytest.param(f"{APPLIED + 1}_short.sql", id="a short number"),
        pytest.param(f"{NEXT}-hyphen.sql", id="a name of another form"),
        pytest.param(f"{NEXT}_Capital.sql", id="a capital"),
    ],
)
async def test_numbering(empty: str, root: Path, name: str) -> None:
    """Files that are not numbered 1, 2, 3, ... are refused before anything is done."""
    (root / "migrations" / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="numbered without gaps"):
        await migrate(empty, root)
    assert not await there(empty, "schema_migrations")


async def test_failing(empty: str, root: Path) -> None:
    """A failing migration is named, and all of the run is rolled back; once it is mended, all are applied."""
    bad = root / "migrations" / f"{NEXT}_bad.sql"
    bad.write_text("CREATE TABLE half_done (id integer); SELECT 1 / 0;")
    with pytest.raises(MigrationError, match=f"{NEXT}_bad failed and was rolled back: division by zero"):
        await migrate(empty, root)
    assert not await there(empty, "transfers")
    bad.write_text("CREATE TABLE half_done (id integer);")
    assert await migrate(empty, root) == [*FIRST[:APPLIED], f"migration {NEXT}_bad", *FIRST[APPLIED:]]
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
    """A function whose file changed is replaced, and no other version of it stays."""
    path = root / "functions" / "post_transfers.sql"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert await migrate(database_url, root) == ["function post_transfers"]
    assert await migrate(database_url, root) == []
    there = [name for kind, name, _ in await schema(database_url) if kind == "function"]
    assert there == sorted(expected_functions())
    assert await migrate(database_url) == ["function post_transfers"]


async def test_functions_changed_by_hand(database_url: str) -> None:
    """A change made to a function in the database is undone."""
    before = await schema(database_url)
    await administer(
        database_url,
        "DO $do$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef(oid), 'BEGIN', 'BEGIN NULL;') FROM pg_proc"
        " WHERE proname = 'post_transfers'); END $do$",
    )
    assert await schema(database_url) != before
    assert await migrate(database_url) == ["function post_transfers"]
    assert await schema(database_url) == before


def test_names_follow_the_migrations(tmp_path: Path) -> None:
    """The expected names are those left after all additions, drops, replacements and renames, in their order."""
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
