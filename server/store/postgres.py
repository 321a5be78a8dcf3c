"""Pooled connections to Postgres: one small pool for posting, one for reading, so that neither starves the other."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from server.store import hosts
from server.store.breaker import Breaker
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, RowLockedError, StoreAwayError, StoreUnavailableError
from server.store.pools import RELEASE_TIMEOUT_SECONDS, create_pool, release
from server.store.sessions import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    CONNECTION_LOST,
    REFUSED_FOR_NOW,
    SESSION_SETTINGS,
)
from server.store.sql import query
from server.store.statements import Statements
from server.store.turns import Turns

# Time to wait for a free connection.
ACQUIRE_TIMEOUT_SECONDS = 1.0
# How long one read may take in all, retries on lost connections included.
READ_DEADLINE_SECONDS = 5.0
# Readers beyond the pool that may wait for a connection: about 50 ms of work at 0.2 ms a query and 4 connections.
READ_WAITERS_MAX = 1_000
# Connections of the posting pool that changes of accounts leave to transfers: one batch decides while another commits.
POSTING_CONNECTIONS_MIN = 2
# Changes of accounts beyond those at work that may wait: about 100 ms of work at a commit each.
WRITE_WAITERS_MAX = 200
# One connection of so many may be waiting for a locked row; the others serve those who need none of it.
CONNECTIONS_A_ROW_WAITER = 2
# A statement that was given less time than this and ran out of it says nothing of Postgres.
TELLING_SECONDS = 0.5

log = logging.getLogger(__name__)


class NoneFreeError(TimeoutError):
    """All connections of the pool are at work: it is busy, and Postgres is there."""


class Watcher(Protocol):
    """Who wants to know where connections lead to."""

    async def meet(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """Look at a new connection before it is used; True when those made before it are to be replaced."""


class Database:
    """
    The two pools of a worker, and a breaker: once Postgres cannot be connected to, or lets statements run out of
    their time, a few times in a row, nobody waits for it any more until it answers a probe.

    A connection that is lost under a statement does not count: what was lost is sent again, and whether another
    connection can be had is what tells.

    Args:
        dsn: Address of Postgres; may name several hosts with `target_session_attrs=read-write`.

        posting_connections: Size of the pool that posts.

        reading_connections: Size of the pool that reads.

        slow_seconds: Statements that take longer are logged.

    Attributes:
        posting_row_waiters, reading_row_waiters: Held by statements of the two pools that wait for locked rows.
    """

    def __init__(
        self, dsn: str, *, posting_connections: int, reading_connections: int, slow_seconds: float = math.inf
    ) -> None:
        self._dsn = dsn
        self.statements = Statements(slow_seconds)
        self._sizes = (posting_connections, reading_connections)
        self._reading_waiters = 0
        self._waiters_max = reading_connections + READ_WAITERS_MAX
        self._writers = Turns(
            max(1, posting_connections - POSTING_CONNECTIONS_MIN),
            waiters_max=WRITE_WAITERS_MAX,
            wait_seconds=ACQUIRE_TIMEOUT_SECONDS,
        )
        self.posting_row_waiters = asyncio.Semaphore(max(1, posting_connections // CONNECTIONS_A_ROW_WAITER))
        self.reading_row_waiters = asyncio.Semaphore(max(1, reading_connections // CONNECTIONS_A_ROW_WAITER))
        self._breaker = Breaker("Postgres", self._probe)
        # Is shown every connection before it is used.
        self.watcher: Watcher | None = None

    async def __aenter__(self) -> "Database":
        posting, reading = self._sizes
        self.posting_pool = await create_pool(self._dsn, posting, self._meet)
        self.reading_pool = await create_pool(self._dsn, reading, self._meet)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._breaker.close()
        for pool in (self.posting_pool, self.reading_pool):
            try:
                await asyncio.wait_for(pool.close(), COMMAND_TIMEOUT_SECONDS)
            except (TimeoutError, *CONNECTION_LOST):
                pool.terminate()

    @property
    def away(self) -> bool:
        """Whether it is known not to answer."""
        return self._breaker.open

    def check(self) -> None:
        """
        Return unless it is known not to answer.

        Raises:
            StoreAwayError: It is; nothing was sent.
        """
        if self._breaker.open:
            raise StoreAwayError("Postgres does not answer")

    async def expire(self) -> None:
        """Have every connection replaced before its next use: the server behind it is leaving or turned read-only."""
        await self.posting_pool.expire_connections()
        await self.reading_pool.expire_connections()

    @asynccontextmanager
    async def posting(self) -> "AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        """
        Lend a connection of the posting pool.

        Raises:
            StoreAwayError: Postgres is known not to answer.
            StoreUnavailableError: None could be had in time; nothing was sent.
        """
        try:
            connection = await self._acquire(self.posting_pool)
        except (*CONNECTION_LOST, *REFUSED_FOR_NOW, asyncpg.InvalidAuthorizationSpecificationError) as error:
            await self.after_failure(error)
            raise StoreUnavailableError(type(error).__name__) from error
        try:
            yield connection
            self._breaker.succeeded()
        except TimeoutError as error:
            self._breaker.failed(error)
            raise
        finally:
            await release(self.posting_pool, connection)

    async def read(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement on the reading pool and return its rows; a lost connection is replaced and asked again.

        Raises:
            QueueFullError: Too many readers wait already.
            StoreUnavailableError: Postgres did not answer in time.
        """
        if self._reading_waiters >= self._waiters_max:
            raise QueueFullError
        self._reading_waiters += 1
        try:
            return await self._ask(self.reading_pool, name, arguments)
        finally:
            self._reading_waiters -= 1

    async def read_once(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement on the reading pool, without asking again when it fails.

        Raises:
            RowLockedError: A row stayed locked.
            StoreUnavailableError: Postgres did not answer in time.
        """
        try:
            deadline = time.monotonic() + ACQUIRE_TIMEOUT_SECONDS
            return await self._fetch(self.reading_pool, name, arguments, deadline)
        except (*CONNECTION_LOST, *REFUSED_FOR_NOW) as error:
            raise StoreUnavailableError(type(error).__name__) from error

    async def look(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, which takes locks and changes nothing, on the posting pool and for those who post.

        Raises:
            StoreUnavailableError: Postgres did not answer in time.
        """
        return await self._ask(self.posting_pool, name, arguments)

    async def write(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, whose effect is the same when it is run again, on the posting pool.

        Raises:
            QueueFullError: Too many callers wait already.
            RowLockedError: A row stayed locked; nothing was done.
            StoreUnavailableError: Its turn did not come; nothing was sent.
            StoreAwayError: Postgres is known not to answer; nothing was sent.
            OutcomeUnknownError: Postgres did not answer in time; the statement may have taken effect.
        """
        async with self._writers.take():
            try:
                return await self._ask(self.posting_pool, name, arguments)
            except (StoreAwayError, RowLockedError):
                raise
            except StoreUnavailableError as error:
                raise OutcomeUnknownError(str(error)) from error

    async def write_once(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, which must not be repeated, on the posting pool.

        Raises:
            QueueFullError: Too many callers wait already.
            RowLockedError: A row stayed locked; nothing was done.
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: Postgres was lost while it worked.
        """
        async with self._writers.take(), self.posting() as connection:
            try:
                return await self.statements.run(connection, name, *arguments)
            except asyncpg.LockNotAvailableError as error:
                raise RowLockedError(()) from error
            except REFUSED_FOR_NOW as error:
                await self.after_failure(error)
                raise StoreUnavailableError(type(error).__name__) from error
            except CONNECTION_LOST as error:
                await self.after_failure(error)
                raise OutcomeUnknownError(type(error).__name__) from error

    async def _ask(
        self, pool: "asyncpg.Pool[asyncpg.Record]", name: str, arguments: Sequence[object]
    ) -> "list[asyncpg.Record]":
        deadline = time.monotonic() + READ_DEADLINE_SECONDS
        failed: BaseException | None = None
        try:
            try:
                return await self._fetch(pool, name, arguments, deadline)
            except (*CONNECTION_LOST, *REFUSED_FOR_NOW) as error:
                failed = error
                await self.after_failure(error)
            async for attempt in AsyncRetrying(
                stop=stop_before_delay(deadline - time.monotonic()),
                wait=wait_random_exponential(0.05, max=0.5),
                retry=retry_if_exception_type((*CONNECTION_LOST, *REFUSED_FOR_NOW)),
                reraise=True,
            ):
                with attempt:
                    return await self._fetch(pool, name, arguments, deadline)
        except (StoreAwayError, RowLockedError) as error:
            if failed is None:
                raise
            # What was sent before may have been done.
            raise StoreUnavailableError(type(failed).__name__) from error
        except (*CONNECTION_LOST, *REFUSED_FOR_NOW) as error:
            raise StoreUnavailableError(type(error).__name__) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _fetch(
        self, pool: "asyncpg.Pool[asyncpg.Record]", name: str, arguments: Sequence[object], deadline: float
    ) -> "list[asyncpg.Record]":
        connection = await self._acquire(pool)
        # A statement that begins after the deadline is refused by the driver unsent.
        timeout = min(COMMAND_TIMEOUT_SECONDS, deadline - time.monotonic())
        try:
            rows = await self.statements.run(connection, name, *arguments, timeout=timeout)
        except TimeoutError as error:
            if timeout >= TELLING_SECONDS:
                self._breaker.failed(error)
            raise
        except asyncpg.LockNotAvailableError as error:
            raise RowLockedError(()) from error
        finally:
            await release(pool, connection)
        self._breaker.succeeded()
        return rows

    async def _acquire(
        self, pool: "asyncpg.Pool[asyncpg.Record]"
    ) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        self.check()
        try:
            return await pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS)
        except CONNECTION_LOST as error:
            if isinstance(error, TimeoutError) and pool.get_size() == pool.get_max_size():
                raise NoneFreeError from error
            self._breaker.failed(error)
            raise

    async def _meet(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        if self.watcher is None:
            return
        try:
            if await self.watcher.meet(connection):
                await self.expire()
        except BaseException:
            # The pool would take leave of the server, and wait for one that hangs.
            connection.terminate()
            raise

    async def _probe(self) -> None:
        """Return when Postgres answers on a new connection, after which none of the old ones is used again."""
        try:
            connection = await hosts.connect(
                self._dsn,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=CONNECT_TIMEOUT_SECONDS,
                server_settings=SESSION_SETTINGS,
            )
            try:
                await connection.fetch(query("readiness_settings"))
                await self._meet(connection)
            finally:
                await connection.close(timeout=RELEASE_TIMEOUT_SECONDS)
        except CONNECTION_LOST:
            raise
        except asyncpg.PostgresError as error:
            # It is there, and has a reason that each caller must hear.
            log.warning("postgres refuses: %s", type(error).__name__)
        await self.expire()

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
