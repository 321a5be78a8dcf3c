"""Sessions of Postgres: their settings, their timeouts, and connections outside the pools."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg

from server.store import hosts
from server.store.driver_errors import translating
from server.store.errors import AddressError, ConnectionLostError, DatabaseError, StoreError, StoreUnavailableError

# One batch of 500 takes about 15 ms; a statement that runs a hundred times longer is stuck, and its row locks with it.
STATEMENT_TIMEOUT_MS = 2_000
# Batches of several workers queue on a hot row for tens of milliseconds each; a longer wait means that the row is
# stuck.
# It stays below the time that requests of other ledgers wait for the connection that a waiting batch holds.
LOCK_TIMEOUT_MS = 250
# Nothing in the service leaves a transaction idle: the client of an idle one is gone.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
# The client's own timeout of a statement, in seconds. It is longer than the server's, so that the server's definite
# answer comes first, and takes effect only when the backend no longer answers.
COMMAND_TIMEOUT_SECONDS = 2.5
# Seconds to open a connection.
CONNECT_TIMEOUT_SECONDS = 2.0
# Rows that a stream fetches at a time: enough to share a round trip, and about a megabyte.
STREAM_ROWS = 1_000
SERVICE_ROLE = "tallystick_service"
SCHEMA = "tallystick"

# Settings of every connection, given at connect: they are the session's defaults, so no later statement sets any.
# Row counts of a young table mislead the planner for as long as a cached plan lives, so scans are off: every statement
# of the service is made to be answered by an index.
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

# An audit joins many rows on either side, and the planner may know nothing about them: with these settings each side is
# read once. They change nothing for a query that asks for row after row, by LATERAL.
AUDIT_SETTINGS = {"enable_nestloop": "off"}
# Settings of a connection that reads whole ledgers beside the traffic, for as long as it takes. It reads the rows
# themselves. An index may find a small ledger in a big table, and a query chooses the index by its order, so bitmaps
# are off. At most three processes work for it, with two sorts or hashes each. It ends soon after its client.
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


class ServiceConnection(asyncpg.Connection):
    """A connection that is released without a reset: the service sets no session state (`sql/` is checked for it)."""

    def get_reset_query(self) -> str:
        return ""


class Session:
    """A connection outside the pools, whose errors are translated into errors of the store."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def execute(self, text: str, *arguments: object) -> None:
        """Run SQL that returns nothing, several statements if there are no *arguments*."""
        with translating():
            await self._connection.execute(text, *arguments)

    async def fetch(self, text: str, *arguments: object) -> "list[asyncpg.Record]":
        """Run a statement and return its rows."""
        with translating():
            return await self._connection.fetch(text, *arguments)

    async def stream(self, text: str, *arguments: object) -> "AsyncIterator[asyncpg.Record]":
        """Yield the rows of a statement, fetched some at a time; only in a transaction."""
        with translating():
            async for row in self._connection.cursor(text, *arguments, prefetch=STREAM_ROWS):
                yield row

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[None]:
        """Run the block in one transaction, with the driver's options."""
        with translating():
            async with self._connection.transaction(**options):
                yield


@asynccontextmanager
async def session(
    dsn: str,
    settings: Mapping[str, str],
    close_seconds: float | None = None,
    *,
    command_seconds: float | None = None,
) -> AsyncIterator[Session]:
    """
    Lend a connection outside the pools.

    Args:
        settings: Settings of the session.

        close_seconds: Seconds that closing the connection may take.

        command_seconds: Seconds that a statement may take.

    Raises:
        StoreUnavailableError: Postgres cannot be reached, or the connection is lost.
        DatabaseError: Postgres refuses.
        OSError: A file that the address names cannot be read.
    """
    try:
        connection = await _connect(dsn, settings, command_seconds)
        try:
            yield Session(connection)
        finally:
            with translating():
                await connection.close(timeout=close_seconds)
    except ConnectionLostError as error:
        raise StoreUnavailableError(str(error.__cause__) or str(error)) from error


async def _connect(
    dsn: str, settings: Mapping[str, str], command_seconds: float | None
) -> "asyncpg.Connection[asyncpg.Record]":
    with translating():
        try:
            return await hosts.connect(
                dsn,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=command_seconds,
                server_settings=dict(settings),
            )
        except asyncpg.InterfaceError as error:
            raise AddressError(str(error), type(error).__name__) from error


class KeptSession:
    """
    A connection outside the pools that is kept until it fails or is closed, and is then opened anew.

    Args:
        As `session`.
    """

    def __init__(
        self, dsn: str, settings: Mapping[str, str], close_seconds: float, *, command_seconds: float | None = None
    ) -> None:
        self._open = partial(session, dsn, settings, close_seconds, command_seconds=command_seconds)
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    @property
    def is_open(self) -> bool:
        """Whether the next use gets the same connection as the last."""
        return self._session is not None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Session]:
        """
        Lend the connection. It is closed if the block fails.

        Raises:
            As `session`.
        """
        try:
            if self._session is None:
                self._session = await self._stack.enter_async_context(self._open())
            yield self._session
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; the next use opens another."""
        self._session = None
        stack, self._stack = self._stack, AsyncExitStack()
        with suppress(StoreError, DatabaseError, OSError):
            await stack.aclose()


def scanning_session(dsn: str, **settings: str) -> AbstractAsyncContextManager[Session]:
    """Lend a connection that may read for as long as it takes, as `session` does, with additional settings."""
    return session(dsn, {**SCAN_SETTINGS, **settings}, COMMAND_TIMEOUT_SECONDS)
