"""Sessions of Postgres: their settings, their limits, and what the errors of a connection mean."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg

from server.store import hosts
from server.store.errors import StoreUnavailableError

# One batch of 500 takes about 15 ms; a statement that runs a hundred times longer is stuck, and its row locks with it.
STATEMENT_TIMEOUT_MS = 2_000
# Batches of several workers queue on a hot row for tens of milliseconds each; past this the holder is not working.
# Requests of other ledgers may wait for the places that a waiting batch holds, so it stays below what they wait.
LOCK_TIMEOUT_MS = 250
# Nothing in the service leaves a transaction idle: whatever does has lost its client.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
# The client's own bound on a statement. Longer than the server's, so that the server's definite answer comes first;
# it decides only when the backend itself does not answer any more.
COMMAND_TIMEOUT_SECONDS = 2.5
# Time to open a connection.
CONNECT_TIMEOUT_SECONDS = 2.0
SERVICE_ROLE = "tallystick_service"
SCHEMA = "tallystick"

# Settings of every connection, given at connect: they are the session's defaults, so no later statement sets any.
# Row counts of a young table mislead the planner for as long as a cached plan lives; every statement of the
# service is made to be answered by an index, so it is never offered a scan.
SESSION_SETTINGS = {
    "application_name": "tallystick",
    "role": SERVICE_ROLE,
    "search_path": SCHEMA,
    "timezone": "UTC",
    "jit": "off",
    "enable_seqscan": "off",
    "plan_cache_mode": "force_generic_plan",
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
    "client_connection_check_interval": "1000",
}

# Settings of a connection that reads whole ledgers beside the traffic, for as long as it takes. It reads the rows
# themselves; an index may find a small ledger in a big table, and a query chooses which by its order, so bitmaps are
# off. At most three processes work for it, with two sorts or hashes each. It ends soon after its client does.
SCAN_SETTINGS = {
    **SESSION_SETTINGS,
    "application_name": "tallystick-scan",
    "enable_seqscan": "on",
    "enable_indexonlyscan": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_custom_plan",
    "max_parallel_workers_per_gather": "2",
    "work_mem": "64MB",
    "statement_timeout": "0",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}

# The connection, or the server behind it, is gone or is leaving; what was being done may or may not have been done.
CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
# Those of them in which the server has not refused the address.
_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InternalClientError,
)
# The server says that it will not do it now; the transaction is rolled back.
REFUSED_FOR_NOW = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidCachedStatementError,
)
# There is no database, role or schema of ours yet, or one of another version: it has to be migrated first.
UNPREPARED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidParameterValueError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedTableError,
)


class ServiceConnection(asyncpg.Connection):
    """A connection that is handed back as it is: the service sets no session state (a check over `sql/` proves it)."""

    def get_reset_query(self) -> str:
        return ""


@asynccontextmanager
async def session(
    dsn: str, settings: Mapping[str, str], close_seconds: float | None = None
) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """
    Lend a connection of its own.

    Args:
        settings: Of the session.

        close_seconds: That closing it may take.

    Raises:
        StoreUnavailableError: Postgres cannot be reached, or is lost.
        asyncpg.PostgresError: It refuses.
    """
    try:
        connection = await hosts.connect(dsn, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=dict(settings))
        try:
            yield connection
        finally:
            await connection.close(timeout=close_seconds)
    except _LOST as error:
        if isinstance(error, OSError) and error.filename:
            # Of a file, not of the connection.
            raise
        raise StoreUnavailableError(str(error) or type(error).__name__) from error


def scanning_session(dsn: str) -> "AbstractAsyncContextManager[asyncpg.Connection[asyncpg.Record]]":
    """Lend a connection that may read for as long as it takes, as `session`."""
    return session(dsn, SCAN_SETTINGS, COMMAND_TIMEOUT_SECONDS)
