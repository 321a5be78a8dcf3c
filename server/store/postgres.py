"""Pooled connections to Postgres: one small pool for posting, one for reading, so that neither starves the other."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import asyncpg

from server.store import hosts
from server.store.breaker import Breaker
from server.store.coalescer import QueueFullError
from server.store.driver_errors import DRIVER_ERRORS, server_is_shutting_down, translated, translating
from server.store.errors import (
    ConnectionLostError,
    DatabaseError,
    DuplicateError,
    NoAnswerError,
    NoConnectionError,
    NoneFreeError,
    OutcomeUnknownError,
    RowLockedError,
    StoreAwayError,
    StoreError,
    StoreUnavailableError,
)
from server.store.pools import RELEASE_TIMEOUT_SECONDS, Connection, Pool
from server.store.resend import resend
from server.store.semaphores import acquired
from server.store.sessions import COMMAND_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, SESSION_SETTINGS
from server.store.sql import query
from server.store.statements import Statements

# Seconds to wait for a free connection.
ACQUIRE_TIMEOUT_SECONDS = 1.0
# Seconds that a read may take in all, retries included.
READ_DEADLINE_SECONDS = 5.0
# Reads beyond the pool that may wait for a connection: about 50 ms of work at 0.2 ms a query and 4 connections.
# Admission lets fewer requests in than this, but keys are looked up before it.
READ_WAITERS_MAX = 1_000
# Connections of the posting pool that are kept for transfers: one batch decides while another commits.
POSTING_CONNECTIONS_MIN = 2
# A timeout shorter than this, in seconds, is no evidence that Postgres does not answer.
TELLING_SECONDS = 0.5

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Examines new connections."""

    async def meet(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """Examine a new connection before it is used; return True when all older connections must be replaced."""


class Database:
    """
    The two connection pools of a worker, and a breaker.

    After a few failed connects or timeouts in a row, the breaker opens: nothing is sent to Postgres until it answers a
    probe. A connection that is lost during a statement does not count. The statement is sent again, and if that needs a
    new connection, its connect counts.

    Args:
        dsn: Address of Postgres; may name several hosts with `target_session_attrs=read-write`.

        posting_connections: Size of the pool that posts.

        reading_connections: Size of the pool that reads.

        slow_seconds: Statements that take longer are logged.
    """

    def __init__(
        self, dsn: str, *, posting_connections: int, reading_connections: int, slow_seconds: float = math.inf
    ) -> None:
        self._dsn = dsn
        self._statements = Statements(slow_seconds)
        self.posting_connections = posting_connections
        self.reading_connections = reading_connections
        self._reading_waiters = 0
        self._waiters_max = reading_connections + READ_WAITERS_MAX
        self._writers = asyncio.Semaphore(max(1, posting_connections - POSTING_CONNECTIONS_MIN))
        self._breaker = Breaker("Postgres", self._probe)
        # Examines every connection before it is used.
        self.watcher: Watcher | None = None

    async def __aenter__(self) -> "Database":
        self.posting_pool = Pool(self._dsn, self.posting_connections, self._meet)
        self.reading_pool = Pool(self._dsn, self.reading_connections, self._meet)
        await self.posting_pool.open()
        await self.reading_pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._breaker.close()
        for pool in (self.posting_pool, self.reading_pool):
            try:
                await asyncio.wait_for(pool.close(), COMMAND_TIMEOUT_SECONDS)
            except DRIVER_ERRORS:
                pool.terminate()

    @property
    def away(self) -> bool:
        """Whether Postgres is known not to answer."""
        return self._breaker.open

    def check(self) -> None:
        """
        Raise an error if Postgres is known not to answer.

        Raises:
            StoreAwayError: Postgres is known not to answer; nothing was sent.
        """
        if self._breaker.open:
            raise StoreAwayError("Postgres does not answer")

    async def expire(self) -> None:
        """Have every connection replaced before its next use: its server is shutting down or has become read-only."""
        await self.posting_pool.expire()
        await self.reading_pool.expire()

    @asynccontextmanager
    async def posting(self) -> AsyncIterator[Connection]:
        """
        Lend a connection of the posting pool, for `run`.

        Raises:
            StoreUnavailableError: No connection was available in time; nothing was sent.
        """
        try:
            connection = await self._acquire(self.posting_pool)
        except DatabaseError as error:
            raise StoreUnavailableError(error.kind) from error
        failed = True
        try:
            yield connection
            failed = False
        finally:
            await self.posting_pool.release(connection, failed=failed)

    async def run(
        self,
        connection: Connection,
        name: str,
        *arguments: object,
        timeout: float | None = None,
        items: int | None = None,
    ) -> "list[asyncpg.Record]":
        """
        Run the named statement on a connection and return its rows.

        Args:
            timeout: Seconds that the statement may take, fewer than the connection's own timeout.

            items: Number of requests that the statement serves, for the log of slow statements.

        Raises:
            RowLockedError, RolledBackError: Nothing was done.
            ConnectionLostError: The statement may have taken effect.
            DatabaseError: Postgres refuses it.
        """
        began, rows = time.monotonic(), None
        try:
            rows = await connection.fetch(query(name), *arguments, timeout=timeout)
        except DRIVER_ERRORS as error:
            failure = translated(error)
            if isinstance(failure, NoAnswerError) and (timeout is None or timeout >= TELLING_SECONDS):
                self._breaker.failed(error)
            await self._note(failure, error)
            raise failure from error
        finally:
            self._statements.ended(name, began, items=items, rows=rows)
        self._breaker.succeeded()
        return rows

    async def read(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement on the reading pool and return its rows, retrying transient failures.

        Raises:
            QueueFullError: Too many readers wait already.
            StoreUnavailableError: Postgres did not answer in time.
            DatabaseError: Postgres refuses the statement.
        """
        if self._reading_waiters >= self._waiters_max:
            raise QueueFullError
        self._reading_waiters += 1
        try:
            return await self._read(self.reading_pool, name, arguments)
        finally:
            self._reading_waiters -= 1

    async def read_once(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement on the reading pool, without retrying it when it fails.

        Raises:
            RowLockedError: A row stayed locked.
            StoreUnavailableError: Postgres did not answer in time.
            DatabaseError: Postgres refuses the statement.
        """
        try:
            return await self._run_on(self.reading_pool, name, arguments, time.monotonic() + ACQUIRE_TIMEOUT_SECONDS)
        except OutcomeUnknownError as error:
            raise StoreUnavailableError(str(error)) from error

    async def read_locks(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, which takes row locks and changes nothing, on the posting pool.

        Raises:
            StoreUnavailableError: Postgres did not answer in time.
        """
        return await self._read(self.posting_pool, name, arguments)

    async def write(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, which is safe to repeat, on the posting pool, retrying transient failures.

        Raises:
            RowLockedError: A row stayed locked; nothing was done.
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: The connection was lost during the statement, and Postgres did not answer again in
                time.
            DatabaseError: Postgres refuses the statement.
        """
        async with self._writing():
            return await self._run_retrying(self.posting_pool, name, arguments)

    async def write_once(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement, which must not be repeated, on the posting pool.

        Raises:
            RowLockedError: A row stayed locked; nothing was done.
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: The connection was lost during the statement.
            DatabaseError: Postgres refuses the statement.
        """
        async with self._writing(), self.posting() as connection:
            return await self.run(connection, name, *arguments)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """Limit the connections of the posting pool that `write` and `write_once` use at once."""
        if not await acquired(self._writers, ACQUIRE_TIMEOUT_SECONDS):
            raise StoreUnavailableError("no connection was free for a change in time")
        try:
            yield
        finally:
            self._writers.release()

    async def _read(self, pool: Pool, name: str, arguments: Sequence[object]) -> "list[asyncpg.Record]":
        try:
            return await self._run_retrying(pool, name, arguments)
        except OutcomeUnknownError as error:
            # A read changes nothing, whether or not it was run.
            raise StoreUnavailableError(str(error)) from error

    async def _run_retrying(self, pool: Pool, name: str, arguments: Sequence[object]) -> "list[asyncpg.Record]":
        """Run the named statement, retrying transient failures unless Postgres is known to be away."""
        deadline = time.monotonic() + READ_DEADLINE_SECONDS
        return await resend(lambda _: self._run_on(pool, name, arguments, deadline), deadline, while_away=False)

    async def _run_on(
        self, pool: Pool, name: str, arguments: Sequence[object], deadline: float
    ) -> "list[asyncpg.Record]":
        connection = await self._acquire(pool)
        # The driver does not send a statement that has no time left.
        timeout = min(COMMAND_TIMEOUT_SECONDS, deadline - time.monotonic())
        failed = True
        try:
            rows = await self.run(connection, name, *arguments, timeout=timeout)
            failed = False
        finally:
            await pool.release(connection, failed=failed)
        return rows

    async def _acquire(self, pool: Pool) -> Connection:
        self.check()
        try:
            return await pool.acquire(ACQUIRE_TIMEOUT_SECONDS)
        except DRIVER_ERRORS as error:
            if isinstance(error, TimeoutError) and pool.size == pool.size_max:
                log.warning("no connection of a pool was free in time")
                raise NoneFreeError("all connections are in use") from error
            failure = translated(error)
            if isinstance(failure, ConnectionLostError):
                self._breaker.failed(error)
            await self._note(failure, error)
            raise NoConnectionError(str(failure)) if isinstance(failure, StoreError) else failure from error

    async def _note(self, failure: StoreError | DatabaseError, error: Exception) -> None:
        """Log a failure, and replace all connections if their server is shutting down or has become a replica."""
        if isinstance(failure, StoreError | DuplicateError) and not isinstance(failure, RowLockedError):
            log.warning("postgres failed: %s", type(error).__name__)
        if server_is_shutting_down(error):
            await self.expire()

    async def _meet(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        if self.watcher is None:
            return
        try:
            if await self.watcher.meet(connection):
                await self.expire()
        except BaseException:
            # The pool would close it gracefully, and wait for a server that hangs.
            connection.terminate()
            raise

    async def _probe(self) -> None:
        """Return once Postgres answers on a new connection; from then on no older connection is used."""
        try:
            with translating():
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
        except (DatabaseError, StoreUnavailableError) as error:
            # Postgres answers, and each caller must be told why it refuses.
            log.warning("postgres refuses: %s", type(error.__cause__).__name__)
        await self.expire()
