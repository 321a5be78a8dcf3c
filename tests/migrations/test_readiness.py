"""GET /readyz names each reason not to serve."""

import os
import sys

import asyncpg
import pytest

from server.gate.tokens import new_key
from server.store.migrations import migrate
from server.store.readiness import SERVER_VERSION_MIN, _judge_settings
from tests.support.client import Client
from tests.support.postgres import create_empty_database, drop_database
from tests.support.service import Service, in_process

LABEL = "0001_ledgers_accounts_transfers"
CANNOT = "the role tallystick_service can change or delete transfers: revoke it"

FAULTS = [
    pytest.param(
        "DELETE FROM schema_migrations WHERE number = 1",
        f"migration {LABEL} has not been applied: run `tallystick migrate`",
        id="a missing migration",
    ),
    pytest.param(
        "UPDATE schema_migrations SET checksum = 'other' WHERE number = 1",
        f"migration {LABEL} was applied with another text than this program's",
        id="an edited migration",
    ),
    pytest.param(
        "UPDATE schema_functions SET checksum = 'other' WHERE name = 'post_transfers'",
        "function post_transfers is missing or of another version: run `tallystick migrate`",
        id="a function of another version",
    ),
    pytest.param(
        "DO $do$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef(oid), 'BEGIN', 'BEGIN NULL;') FROM pg_proc"
        " WHERE proname = 'post_transfers'); END $do$",
        "function post_transfers is missing or of another version: run `tallystick migrate`",
        id="a function edited in the database",
    ),
    pytest.param(
        "DROP FUNCTION post_transfers",
        "function post_transfers is missing or of another version: run `tallystick migrate`",
        id="a dropped function",
    ),
    pytest.param(
        "ALTER TABLE transfers DROP CONSTRAINT transfers_idempotency_key_unique",
        "constraint or index transfers_idempotency_key_unique is missing or not valid",
        id="a dropped unique constraint",
    ),
    pytest.param(
        "ALTER TABLE transfers DROP CONSTRAINT transfers_outcome_check",
        "constraint or index transfers_outcome_check is missing or not valid",
        id="a dropped check",
    ),
    pytest.param(
        "ALTER DOMAIN currency_code DROP CONSTRAINT currency_code_check",
        "constraint or index currency_code_check is missing or not valid",
        id="a dropped check of a domain",
    ),
    pytest.param(
        "ALTER TABLE transfers DROP CONSTRAINT transfers_amount_check;"
        " ALTER TABLE transfers ADD CONSTRAINT transfers_amount_check CHECK (amount > 0) NOT VALID",
        "constraint or index transfers_amount_check is missing or not valid",
        id="a constraint that was never checked",
    ),
    pytest.param(
        "DROP INDEX transfers_source_index",
        "constraint or index transfers_source_index is missing or not valid",
        id="a dropped index",
    ),
    pytest.param(
        "DROP INDEX transfers_moved_index",
        "constraint or index transfers_moved_index is missing or not valid",
        id="a dropped index of the lists",
    ),
    pytest.param(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'transfers_destination_index'::regclass",
        "constraint or index transfers_destination_index is missing or not valid",
        id="an invalid index",
    ),
    pytest.param(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'transfers_idempotency_key_unique'::regclass",
        "constraint or index transfers_idempotency_key_unique is missing or not valid",
        id="an invalid index of a constraint",
    ),
    pytest.param("GRANT UPDATE ON transfers TO tallystick_service", CANNOT, id="UPDATE granted on transfers"),
    pytest.param("GRANT UPDATE (amount) ON transfers TO PUBLIC", CANNOT, id="UPDATE of a column granted to all"),
    pytest.param("GRANT DELETE ON transfers TO tallystick_service", CANNOT, id="DELETE granted"),
    pytest.param("GRANT TRUNCATE ON transfers TO tallystick_service", CANNOT, id="TRUNCATE granted"),
    pytest.param(
        "REVOKE INSERT ON transfers FROM tallystick_service",
        "the role tallystick_service lacks INSERT on transfers: run `tallystick migrate`",
        id="INSERT revoked",
    ),
    pytest.param(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
        "synchronous_commit is off: an acknowledged transfer could be lost",
        id="synchronous_commit off",
    ),
    pytest.param(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = local', current_database()); END $$",
        "synchronous_commit is local: an acknowledged transfer could be lost",
        id="synchronous_commit local",
    ),
    pytest.param(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());"
        " END $$",
        "the server is read-only",
        id="a read-only server",
    ),
    pytest.param(
        "DROP SCHEMA tallystick CASCADE",
        "the schema or the service's privileges on it are missing: run `tallystick migrate`",
        id="no schema",
    ),
    pytest.param(
        "REVOKE USAGE ON SCHEMA tallystick FROM tallystick_service",
        "the role tallystick_service lacks USAGE on the schema tallystick: run `tallystick migrate`",
        id="a schema that cannot be entered",
    ),
]


async def failures(service: Service) -> list[str]:
    """Return the reasons against readiness."""
    async with service.session.get(f"{service.url}/readyz") as answer:
        body = await answer.json(content_type=None)
    if answer.status == 200:
        return []
    assert (answer.status, body["code"]) == (503, "not_ready")
    found: list[str] = body["failures"]
    assert body["detail"] == "; ".join(found) + "."
    return found


async def test_ready(database_url: str) -> None:
    """A migrated database is ready."""
    async with in_process(database_url) as service:
        assert await failures(service) == []


@pytest.mark.parametrize(("statement", "sentence"), FAULTS)
async def test_not_ready(database_url: str, statement: str, sentence: str) -> None:
    """The service names exactly what is wrong."""
    settings = {"search_path": "tallystick", "allow_system_table_mods": "on"}
    connection = await asyncpg.connect(database_url, server_settings=settings)
    await connection.execute(statement)
    await connection.close()
    async with in_process(database_url) as service:
        assert await failures(service) == [sentence]


async def test_no_file_is_read_on_the_way(database_url: str) -> None:
    """A readiness check opens no SQL file, because files are read at start."""
    opened: list[str] = []
    async with in_process(database_url) as service:
        looking = True

        def note(event: str, arguments: tuple[object, ...]) -> None:
            if looking and event == "open":
                opened.append(os.fsdecode(str(arguments[0])))

        sys.addaudithook(note)
        try:
            assert await failures(service) == []
        finally:
            # A hook cannot be removed from its process.
            looking = False
    assert [path for path in opened if path.endswith(".sql")] == []


async def test_an_empty_database(template: str) -> None:
    """A database that was never migrated is reported as such."""
    url = await create_empty_database(template)
    async with in_process(url) as service:
        assert await failures(service) == [
            "the schema or the service's privileges on it are missing: run `tallystick migrate`"
        ]
    await drop_database(template, url)


async def test_no_server() -> None:
    """If no Postgres answers, the reason says so."""
    async with in_process("postgresql://postgres@127.0.0.1:1/tallystick") as service:
        assert await failures(service) == ["Postgres cannot be reached"]


WELL = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "server_version": 18_00_00,
    "in_recovery": False,
    "read_only": False,
    "service_role": "tallystick_service",
}


@pytest.mark.parametrize(
    ("changed", "sentences"),
    [
        pytest.param({}, [], id="all well"),
        pytest.param({"synchronous_commit": "remote_apply"}, [], id="a stricter commit"),
        pytest.param({"fsync": "off"}, ["fsync is off: an acknowledged transfer could be lost"], id="fsync"),
        pytest.param(
            {"full_page_writes": "off"}, ["full_page_writes is off: an acknowledged transfer could be lost"], id="pages"
        ),
        pytest.param(
            {"server_version": SERVER_VERSION_MIN - 1}, ["PostgreSQL 16 or newer is needed"], id="an old server"
        ),
        pytest.param({"in_recovery": True, "read_only": True}, ["the server is a standby in recovery"], id="a standby"),
        pytest.param(
            {"service_role": "postgres"},
            ["the service runs as postgres instead of tallystick_service"],
            id="another role",
        ),
    ],
)
def test_settings(changed: dict[str, object], sentences: list[str]) -> None:
    """Settings that only a restart of the server can change are judged from their values."""
    assert _judge_settings({**WELL, **changed}) == sentences  # type: ignore[arg-type]  # a mapping like a record


async def test_requests_before_the_migration(postgres_url: str) -> None:
    """Before the migration, requests get 503 as if Postgres were away; afterwards they are served."""
    empty = await create_empty_database(postgres_url)
    try:
        async with in_process(empty) as service:
            stranger = Client(service.session, service.url, new_key(1).token)
            read, write = await stranger.get("/v1/accounts"), await stranger.transfer("a", "b", 1)
            assert (read.status, read.code) == (503, "unavailable")
            assert (write.status, write.json["outcome"], write.json["retry"]) == (503, "not_applied", "same_key")
            await migrate(empty)
            client = await service.client("books")
            assert (await client.get("/v1/accounts")).status == 200
            assert (await stranger.get("/v1/accounts")).status == 401
    finally:
        await drop_database(postgres_url, empty)
