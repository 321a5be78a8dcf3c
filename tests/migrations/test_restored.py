"""On a database that was restored without owners and privileges, every command names the remedy, which is `migrate`."""

import asyncio
import re
import subprocess
from pathlib import Path

import asyncpg
import pytest

from server.process.embedded.binaries import postgres_bin
from server.store.migrations import MigrationError, migrate
from tests.migrations.test_ordinary_owner import CREATES_ROLES, prepared
from tests.migrations.test_privileges import PRIVILEGES
from tests.support.client import Client
from tests.support.command import NO_REDIS, call
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import administer, create_empty_database, drop_database, with_database
from tests.support.service import in_process, make_key

REMEDY = "run `tallystick migrate`"
# Seconds for pg_dump and pg_restore.
TOOL_SECONDS = 60.0
OWNERS = """
    SELECT 'schema' AS kind, nspname::text AS name, pg_get_userbyid(nspowner) AS owner FROM pg_namespace
    WHERE nspname = 'tallystick'
    UNION ALL SELECT 'relation', relname, pg_get_userbyid(relowner) FROM pg_class
    WHERE relnamespace = to_regnamespace('tallystick')
    UNION ALL SELECT 'type', typname, pg_get_userbyid(typowner) FROM pg_type
    WHERE typnamespace = to_regnamespace('tallystick')
    UNION ALL SELECT 'function', proname, pg_get_userbyid(proowner) FROM pg_proc
    WHERE pronamespace = to_regnamespace('tallystick')
"""


async def tool(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs until it ends."""
    child = await asyncio.create_subprocess_exec(postgres_bin(name), *arguments, stderr=subprocess.PIPE)
    _, err = await asyncio.wait_for(child.communicate(), TOOL_SECONDS)
    assert child.returncode == 0, err.decode()


async def dump(url: str, folder: Path) -> str:
    """Dump a database and return the file."""
    file = str(folder / "dump")
    await tool("pg_dump", "--format=custom", f"--file={file}", url)
    return file


async def access(url: str) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """Return the service's privileges, and the owners of all objects."""
    return {tuple(row) for row in await administer(url, PRIVILEGES)}, {
        tuple(row) for row in await administer(url, OWNERS)
    }


async def commands_say(url: str) -> None:
    """Check that the service, and every command but `migrate`, name the remedy."""
    for path, code in ((["doctor"], 1), (["audit"], 2), (["keys", "list"], 2)):
        end = await call(*path, database_url=url, redis_url=NO_REDIS)
        assert end.code == code, end
        assert REMEDY in end.out + end.err
    create = ("keys", "create", "--ledger", "books", "--role", "read")
    end = await call(*create, database_url=url)
    assert (end.code, end.out) == (2, "")
    assert REMEDY in end.err
    async with in_process(url) as service, service.session.get(f"{service.url}/readyz") as answer:
        assert answer.status == 503
        failures = (await answer.json(content_type=None))["failures"]
        assert len(failures) == 1
        assert failures[0].endswith(REMEDY)


async def test_restored_without_owners_and_privileges(database_url: str, template: str, tmp_path: Path) -> None:
    """`migrate` says what it applied, restores owners and privileges of the original, and the service posts again."""
    key = await make_key(database_url, "books")
    before = await access(database_url)
    copy = await create_empty_database(template)
    try:
        file = await dump(database_url, tmp_path)
        await tool("pg_restore", "--no-owner", "--no-privileges", f"--dbname={copy}", file)
        await commands_say(copy)
        end = await call("migrate", database_url=copy)
        assert (end.code, end.out, end.err) == (0, "applied ownership\napplied grants\n", "")
        assert (await call("migrate", database_url=copy)).out == "nothing to do\n"
        assert await access(copy) == before
        async with in_process(copy) as service:
            client = Client(service.session, service.url, key)
            assert (await client.get("/readyz")).status == 200
            await client.fund("alice", 5)
            assert await client.balance("alice") == 5
        for path in (["audit"], ["keys", "list"]):
            assert (await call(*path, database_url=copy)).code == 0
    finally:
        await drop_database(template, copy)


async def test_restored_on_another_server(database_url: str, own_postgres: OwnPostgres, tmp_path: Path) -> None:
    """On a server that lacks the roles, `migrate` creates them too."""
    await make_key(database_url, "books")
    file = await dump(database_url, tmp_path)
    copy = own_postgres.database_url
    await tool("pg_restore", "--no-owner", "--no-privileges", f"--dbname={copy}", file)
    for path in (["doctor"], ["audit"], ["keys", "list"]):
        end = await call(*path, database_url=copy, redis_url=NO_REDIS)
        assert REMEDY in end.out + end.err, end
    assert (await call("migrate", database_url=copy)).out == "applied ownership\napplied grants\n"
    assert await access(copy) == await access(database_url)


async def test_the_user_that_restored_must_migrate(
    database_url: str, own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    """A user that may not take over objects restored by another user is told who owns them, and nothing is done."""
    file = await dump(database_url, tmp_path)
    books = await prepared(own_postgres, CREATES_ROLES)
    restored = with_database(own_postgres.database_url, "books")
    await tool("pg_restore", "--no-owner", "--no-privileges", f"--dbname={restored}", file)
    before = await administer(restored, OWNERS)
    with pytest.raises(MigrationError, match="belongs to postgres: run `tallystick migrate` as postgres"):
        await migrate(books)
    assert await administer(restored, OWNERS) == before
    assert await migrate(restored) == ["ownership", "grants"]


REVOKED = [
    pytest.param("ALL ON ALL TABLES IN SCHEMA tallystick", r"DELETE on outbox and \d+ more", id="everything on tables"),
    pytest.param("USAGE ON SCHEMA tallystick", "USAGE on the schema tallystick", id="the schema"),
    pytest.param("SELECT ON tallystick.schema_functions", "SELECT on schema_functions", id="a record's table"),
    pytest.param("INSERT ON tallystick.accounts", "INSERT on accounts", id="openings"),
    pytest.param("UPDATE (closed) ON tallystick.accounts", r"UPDATE \(closed\) on accounts", id="a column"),
    pytest.param("SELECT ON tallystick.api_keys", "SELECT on api_keys", id="keys"),
]


@pytest.mark.parametrize(("privilege", "lacking"), REVOKED)
async def test_a_privilege_that_was_revoked(database_url: str, privilege: str, lacking: str) -> None:
    """Readiness and `doctor` name a missing privilege on any object, and `migrate` grants it again."""
    before = await access(database_url)
    await administer(database_url, f"REVOKE {privilege} FROM tallystick_service")
    async with in_process(database_url) as service, service.session.get(f"{service.url}/readyz") as answer:
        [sentence] = (await answer.json(content_type=None))["failures"]
    assert re.fullmatch(f"the role tallystick_service lacks {lacking}: {REMEDY}", sentence)
    end = await call("doctor", database_url=database_url, redis_url=NO_REDIS)
    assert f"FAULT Postgres\n      - {sentence}\n" in end.out
    assert await migrate(database_url) == ["grants"]
    assert await access(database_url) == before


async def test_what_is_not_ours_is_left_alone(database_url: str) -> None:
    """A view that another user keeps in the schema stays theirs."""
    await administer(database_url, "CREATE VIEW tallystick.report AS SELECT 1 AS one")
    assert await migrate(database_url) == []
    [row] = await administer(database_url, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'report'")
    assert row[0] == "postgres"


async def test_a_function_that_nobody_may_call(database_url: str) -> None:
    """
    Rights that PUBLIC has by default are accepted; if they are revoked, `migrate` grants them to the service's role.
    """
    await administer(database_url, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA tallystick FROM PUBLIC")
    assert await migrate(database_url) == ["grants"]
    async with in_process(database_url) as service:
        await (await service.client("books")).fund("alice", 5)


async def test_as_the_ordinary_owner_that_restored(
    database_url: str, own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    """A user that is no superuser can restore and migrate without help."""
    file = await dump(database_url, tmp_path)
    books = await prepared(own_postgres, CREATES_ROLES)
    restored = with_database(own_postgres.database_url, "books")
    await tool("pg_restore", "--no-owner", "--no-privileges", f"--dbname={books}", file)
    assert await migrate(books) == ["ownership", "grants"]
    assert await access(restored) == await access(database_url)
    connection = await asyncpg.connect(books, server_settings={"role": "tallystick_service"})
    await connection.close()
