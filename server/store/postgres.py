"""Pooled connections to Postgres: one small pool for posting, one for reading, so that neither starves the other."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreUnavailableError
from server.store.sql import query

# One batch of 500 takes about 15 ms; a statement that runs a hundred times longer is stuck, and its row locks with it.
STATEMENT_TIMEOUT_MS = 2_000
# Batches of several workers queue on a hot row for tens of milliseconds each; past this the holder is not working.
LOCK_TIMEOUT_MS = 500
# Nothing in the service leaves a transaction idle: whatever does has lost its client.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
# The client's own bound on a statement. Longer than the server's, so that the server's definite answer comes first;
# it decides only when the backend itself does not answer any more.
COMMAND_TIMEOUT_SECONDS = 2.5
# Time to open a connection, and time to wait for a free one.
CONNECT_TIMEOUT_SECONDS = 2.0
ACQUIRE_TIMEOUT_SECONDS = 1.0
# How long handing a connection back may take: waiting for a cancelled statement's backend, or taking leave of a server.
# What was done on it is decided by then, and its caller waits; past this the connection is cut.
RELEASE_TIMEOUT_SECONDS = 0.5
# How long one read may take in all, retries on lost connections included.
READ_DEADLINE_SECONDS = 5.0
# Readers beyond the pool that may wait for a connection: about 50 ms of work at 0.2 ms a query and 4 connections.
READ_WAITERS_MAX = 1_000

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

log = logging.getLogger(__name__)


class _Connection(asyncpg.Connection):
    """A connection that is handed back as it is: the service sets no session state (a check over `sql/` proves it)."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """
    The two pools of a worker.

    Args:
        dsn: Address of Postgres; may name several hosts with `target_session_attrs=read-write`.

        posting_connections: Size of the pool that posts.

        reading_connections: Size of the pool that reads.
    """

    def __init__(self, dsn: str, *, posting_connections: int, reading_connections: int) -> None:
        self._dsn = dsn
        self._sizes = (posting_connections, reading_connections)
        self._reading_waiters = 0
        self._waiters_max = reading_connections + READ_WAITERS_MAX

    async def __aenter__(self) -> "Database":
        posting, reading = self._sizes
        self.posting_pool = await self._create_pool(posting)
        self.reading_pool = await self._create_pool(reading)
        return self

    async def __aexit__(self, *_: object) -> None:
        for pool in (self.posting_pool, self.reading_pool):
            try:
                await asyncio.wait_for(pool.close(), COMMAND_TIMEOUT_SECONDS)
            except (TimeoutError, *CONNECTION_LOST):
                pool.terminate()

    async def _create_pool(self, size: int) -> "asyncpg.Pool[asyncpg.Record]":
        # No connection is opened here: the service starts, and says that it is not ready, while Postgres is away.
        return await asyncpg.create_pool(
            self._dsn,
            connection_class=_Connection,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=0,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            server_settings=SESSION_SETTINGS,
        )

    async def expire(self) -> None:
        """Have every connection replaced before its next use: the server behind it is leaving or turned read-only."""
        await self.posting_pool.expire_connections()
        await self.reading_pool.expire_connections()

    @asynccontextmanager
    async def posting(self) -> "AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        """
        Lend a connection of the posting pool.

        Raises:
            StoreUnavailableError: None could be had in time; nothing was sent.
        """
        try:
            connection = await self.posting_pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS)
        except (*CONNECTION_LOST, *REFUSED_FOR_NOW, asyncpg.InvalidAuthorizationSpecificationError) as error:
            await self.after_failure(error)
            raise StoreUnavailableError(type(error).__name__) from error
        try:
            yield connection
        finally:
            await _release(self.posting_pool, connection)

    async def read(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement on the reading pool and return its rows; a lost connection is replaced and asked again.

        Raises:
            QueueFullError: Too many readers wait already.
            StoreUnavailableError: Postgres did not answer in time.
        """
        return await self._read(self.reading_pool, query(name), arguments)

    async def write(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, whose effect is the same when it is run again, on the posting pool.

        Raises:
            QueueFullError: Too many callers wait already.
            StoreUnavailableError: Postgres did not answer in time; the statement may have taken effect.
        """
        return await self._read(self.posting_pool, query(name), arguments)

    async def write_once(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, which must not be repeated, on the posting pool.

        Raises:
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: Postgres was lost while it worked.
        """
        async with self.posting() as connection:
            try:
                return await connection.fetch(query(name), *arguments)
            except REFUSED_FOR_NOW as error:
                await self.after_failure(error)
                raise StoreUnavailableError(type(error).__name__) from error
            except CONNECTION_LOST as error:
                await self.after_failure(error)
                raise OutcomeUnknownError(type(error).__name__) from error

    async def _read(
        self, pool: "asyncpg.Pool[asyncpg.Record]", statement: str, arguments: Sequence[object]
    ) -> "list[asyncpg.Record]":
        if self._reading_waiters >= self._waiters_max:
            raise QueueFullError
        self._reading_waiters += 1
        deadline = time.monotonic() + READ_DEADLINE_SECONDS
        try:
            try:
                return await _fetch(pool, statement, arguments, deadline)
            except (*CONNECTION_LOST, *REFUSED_FOR_NOW) as error:
                await self.after_failure(error)
            async for attempt in AsyncRetrying(
                stop=stop_before_delay(deadline - time.monotonic()),
                wait=wait_random_exponential(0.05, max=0.5),
                retry=retry_if_exception_type((*CONNECTION_LOST, *REFUSED_FOR_NOW)),
                reraise=True,
            ):
                with attempt:
                    return await _fetch(pool, statement, arguments, deadline)
        except (*CONNECTION_LOST, *REFUSED_FOR_NOW) as error:
            raise StoreUnavailableError(type(error).__name__) from error
        finally:
            self._reading_waiters -= 1
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def after_failure(self, error: BaseException) -> None:
        """Note a failure, and replace all connections when it says that the server is leaving or is a replica now."""
        log.warning("postgres failed: %s", type(error).__name__)
        if isinstance(
            error,
            asyncpg.ReadOnlySQLTransactionError
            | asyncpg.AdminShutdownError
            | asyncpg.CrashShutdownError
            | asyncpg.PostgresConnectionError,
        ):
            await self.expire()


@asynccontextmanager
async def scanning_session(dsn: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """
    Lend a connection that may read for as long as it takes.

    Raises:
        OSError, asyncpg.PostgresError: Postgres cannot be reached or refuses.
    """
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=SCAN_SETTINGS)
    try:
        yield connection
    finally:
        await connection.close(timeout=COMMAND_TIMEOUT_SECONDS)


async def _fetch(
    pool: "asyncpg.Pool[asyncpg.Record]", statement: str, arguments: Sequence[Any], deadline: float
) -> "list[asyncpg.Record]":
    connection = await pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS)
    try:
        # A statement that begins after the deadline is refused by the driver unsent.
        timeout = min(COMMAND_TIMEOUT_SECONDS, deadline - time.monotonic())
        return await connection.fetch(statement, *arguments, timeout=timeout)
    finally:
        await _release(pool, connection)


async def _release(
    pool: "asyncpg.Pool[asyncpg.Record]", connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
) -> None:
    """Hand a connection back; a failure to do so is not one of what was done on it."""
    try:
        await pool.release(connection, timeout=RELEASE_TIMEOUT_SECONDS)
    except Exception as error:
        # asyncpg has cut the connection and made room for another.
        log.warning("a connection was not handed back: %s", type(error).__name__)
