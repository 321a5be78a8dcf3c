"""The service's role may read, append and move balances, and nothing else."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.store.sessions import SESSION_SETTINGS
from tests.support.postgres import administer
from tests.support.service import make_key

# Every privilege on a table or column of the schema that the service's role holds, also through PUBLIC.
PRIVILEGES = """
    SELECT c.relname AS name, p.privilege, NULL AS columns
    FROM pg_class AS c
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'])
        AS p (privilege)
    WHERE c.relnamespace = to_regnamespace('tallystick') AND c.relkind IN ('r', 'p', 'v', 'm')
      AND has_table_privilege('tallystick_service', c.oid, p.privilege)
    UNION ALL
    SELECT c.relname, p.privilege, string_agg(a.attname::text, ' ' ORDER BY a.attname::text)
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS p (privilege)
    WHERE c.relnamespace = to_regnamespace('tallystick') AND c.relkind IN ('r', 'p', 'v', 'm')
      AND has_column_privilege('tallystick_service', c.oid, a.attnum, p.privilege)
      AND NOT has_table_privilege('tallystick_service', c.oid, p.privilege)
    GROUP BY c.relname, p.privilege
"""
TABLES = (
    "ledgers",
    "api_keys",
    "accounts",
    "transfers",
    "transfer_progress",
    "outbox",
    "feed",
    "feed_heads",
    "feed_accounts",
    "audit_rounds",
    "webhook_endpoints",
    "webhook_retries",
    "webhook_attempts",
    "sinks",
    "sink_positions",
)
BALANCES = "balance ceiling closed floor held_in held_out last_entry_at limits_version metadata version"

FORBIDDEN = [
    "UPDATE transfers SET amount = 1",
    "UPDATE transfers SET refusal = 'x'",
    "DELETE FROM transfers",
    "TRUNCATE transfers",
    "UPDATE transfer_progress SET amount = 1",
    "UPDATE transfer_progress SET expires_at = now()",
    "DELETE FROM transfer_progress",
    "TRUNCATE transfer_progress",
    "UPDATE outbox SET posted_at = now()",
    "UPDATE feed SET link = ''",
    "DELETE FROM feed",
    "DELETE FROM feed_heads",
    "DELETE FROM feed_accounts",
    "DELETE FROM audit_rounds",
    "UPDATE webhook_endpoints SET id = uuidv7()",
    "UPDATE webhook_attempts SET status = 200",
    "TRUNCATE webhook_attempts",
    "UPDATE sinks SET options = '{}'",
    "DELETE FROM sink_positions",
    "UPDATE api_keys SET id = 'x'",
    "UPDATE api_keys SET role = 'admin'",
    "DELETE FROM api_keys",
    "UPDATE accounts SET currency = 'USD'",
    "UPDATE accounts SET id = 'x'",
    "UPDATE accounts SET created_at = now()",
    "DELETE FROM accounts",
    "TRUNCATE accounts CASCADE",
    "UPDATE ledgers SET name = 'x'",
    "DELETE FROM ledgers",
    "INSERT INTO schema_migrations (number, name, checksum) VALUES (99, 'x', 'x')",
    "UPDATE schema_functions SET checksum = 'x'",
    "CREATE TABLE tallystick.mine (id integer)",
    "CREATE TABLE public.mine (id integer)",
    "CREATE SCHEMA mine",
    "ALTER TABLE transfers ADD COLUMN mine integer",
    "ALTER TABLE transfers DROP CONSTRAINT transfers_amount_check",
    "ALTER TABLE transfers DISABLE TRIGGER ALL",
    "CREATE INDEX mine ON transfers (amount)",
    "DROP INDEX transfers_source_index",
    "DROP TABLE transfers",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "DROP FUNCTION post_transfers",
    "ALTER ROLE tallystick_service SUPERUSER",
]


@pytest.fixture
async def serving(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that is limited to the service's role: its user cannot become the superuser again."""
    await make_key(database_url, "books")
    user = "serves_only"
    await administer(
        database_url,
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') THEN"
        f" CREATE ROLE {user} LOGIN PASSWORD '{user}' IN ROLE tallystick_service; END IF; END $$",
    )
    connection = await asyncpg.connect(database_url, user=user, password=user, server_settings=SESSION_SETTINGS)
    yield connection
    await connection.close()


async def test_privileges(database_url: str) -> None:
    """The role holds exactly these privileges."""
    rows = await administer(database_url, PRIVILEGES)
    held = {(row["name"], row["privilege"]): row["columns"] for row in rows}
    assert held == {
        **{(table, privilege): None for table in TABLES for privilege in ("SELECT", "INSERT")},
        ("schema_migrations", "SELECT"): None,
        ("schema_functions", "SELECT"): None,
        ("accounts", "UPDATE"): BALANCES,
        ("transfer_progress", "UPDATE"): "captured remaining reversed state",
        ("outbox", "DELETE"): None,
        # Lets it lock rows; a generated column cannot be set.
        ("outbox", "UPDATE"): "size",
        ("feed_heads", "UPDATE"): "link peak position",
        ("audit_rounds", "UPDATE"): "began_at ended_at findings last revision running",
        **{(f"webhook_{table}", "DELETE"): None for table in ("endpoints", "retries", "attempts")},
        ("webhook_endpoints", "UPDATE"): "description disabled position replay secrets secrets_until types url version",
        ("webhook_retries", "UPDATE"): "attempted_at attempts due_at",
        ("sinks", "UPDATE"): "error error_at failing_since refused_ledger_id refused_position revision state",
        ("sinks", "DELETE"): None,
        ("sink_positions", "UPDATE"): "position",
        ("api_keys", "UPDATE"): (
            "accounts burst concurrency description digest expires_at former_digests former_until last_used_at "
            "rate_quota rate_window revoked_at"
        ),
    }


async def test_owner(database_url: str) -> None:
    """Everything belongs to the owner's role, which cannot log in, and the service's role is no member of it."""
    owners = await administer(
        database_url,
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = to_regnamespace('tallystick')"
        " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = to_regnamespace('tallystick')",
    )
    assert [row[0] for row in owners] == ["tallystick_owner"]
    roles = await administer(
        database_url,
        "SELECT rolname, rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls AS may,"
        " pg_has_role(oid, 'tallystick_owner', 'MEMBER') AS owner"
        " FROM pg_roles WHERE rolname LIKE 'tallystick%' ORDER BY 1",
    )
    assert [tuple(row) for row in roles] == [("tallystick_owner", False, True), ("tallystick_service", False, False)]


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_forbidden(serving: "asyncpg.Connection[asyncpg.Record]", statement: str) -> None:
    """The database refuses each forbidden statement."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await serving.execute(statement)


async def test_no_grant_to_itself(serving: "asyncpg.Connection[asyncpg.Record]") -> None:
    """The role cannot grant itself more: the statement has no effect."""
    await serving.execute("GRANT UPDATE ON transfers TO tallystick_service")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await serving.execute("UPDATE transfers SET amount = 1")


async def test_allowed(serving: "asyncpg.Connection[asyncpg.Record]") -> None:
    """
    The role may do what a posting and a revocation do, so the refusals above do not come from a role without rights.
    """
    await serving.execute("UPDATE accounts SET balance = balance, version = version")
    await serving.execute("UPDATE transfer_progress SET captured = captured, remaining = remaining, state = state")
    await serving.execute("UPDATE api_keys SET revoked_at = now()")
    assert await serving.fetchval("SELECT count(*) FROM transfers") == 0
