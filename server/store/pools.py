"""Connection pools that keep connections ready between uses, to save the driver's work of releasing them."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import asyncpg

from server.store import hosts
from server.store.array_arguments import take_lists_and_tuples
from server.store.by_hand import needs_task
from server.store.sessions import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    SESSION_SETTINGS,
    ServiceConnection,
)

# Seconds that releasing a connection may take while its caller waits. The driver waits for the backend of a cancelled
# statement, or for a server to close. The statement's outcome is decided by then; after this the connection is cut.
RELEASE_TIMEOUT_SECONDS = 0.5

log = logging.getLogger(__name__)

# A connection that a pool lends.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class Pool:
    """
    Lends up to *size* connections. They are opened as they are needed, so PostgreSQL may be away at first.

    The driver's pool opens them, and makes callers wait when all are in use. It starts two tasks and two timers for
    each use of a connection, which takes longer than a short statement. So a connection whose statements succeeded is
    not returned to the driver's pool but kept here for the next caller, unless a caller waits in the driver's pool.

    Args:
        dsn: Address of PostgreSQL.

        size: Maximum number of connections.

        meet: Examines each connection before it is used.
    """

    def __init__(
        self, dsn: str, size: int, meet: "Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]]"
    ) -> None:
        self.size_max = size
        take_lists_and_tuples()
        self._pool = asyncpg.create_pool(
            dsn,
            # asyncpg's stub wants a function with every argument spelled out.
            connect=cast(Any, hosts.connect),
            connection_class=ServiceConnection,
            init=cast(Any, meet),
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=0,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            # The statements are few and stay the same.
            max_cached_statement_lifetime=0,
            server_settings=SESSION_SETTINGS,
        )
        # Connections that are not in use, the most recently used last.
        self._kept: list[Connection] = []
        # Connections that may be kept: they are newer than the last `expire`.
        self._valid: set[Connection] = set()
        # Number of callers that wait in the driver's pool.
        self._waiting = 0
        self._expiries = 0

    async def open(self) -> None:
        """Open the pool."""
        await self._pool

    @property
    def size(self) -> int:
        """Number of connections."""
        return self._pool.get_size()

    @property
    def idle(self) -> int:
        """Number of connections that are not in use."""
        return self._pool.get_idle_size() + len(self._kept)

    async def acquire(self, timeout: float) -> Connection:
        """
        Return an unused connection; the caller must `release` it.

        Args:
            timeout: Seconds to wait for one, opening it included.

        Raises:
            DRIVER_ERRORS: No connection was free in time, or it could not be opened.
        """
        while self._kept:
            connection = self._kept.pop()
            if _usable(connection):
                return connection
            self._valid.discard(connection)
        expiries = self._expiries
        # While callers wait, released connections go to the driver's pool.
        self._waiting += 1
        try:
            await needs_task()
            connection = await self._pool.acquire(timeout=timeout)
        finally:
            self._waiting -= 1
        if expiries == self._expiries:
            self._valid.add(connection)
        return connection

    async def release(self, connection: Connection, *, failed: bool) -> None:
        """
        Release a connection. A failure to release it is only logged: it does not change what its statements did.

        Args:
            failed: Whether a statement on it has failed and may still be running.
        """
        if not failed and not self._waiting and connection in self._valid and _usable(connection):
            self._kept.append(connection)
            return
        self._valid.discard(connection)
        try:
            await self._pool.release(connection, timeout=RELEASE_TIMEOUT_SECONDS)
        except Exception as error:
            # asyncpg has cut the connection, and the pool may open another.
            log.warning("a connection was not released: %s", type(error).__name__)

    async def expire(self) -> None:
        """Have every connection replaced before its next use."""
        self._expiries += 1
        self._valid.clear()
        await self._pool.expire_connections()
        # No statement runs on the kept connections. Terminating one returns its place to the driver's pool.
        while self._kept:
            connection = self._kept.pop()
            if _usable(connection):
                connection.terminate()

    async def close(self) -> None:
        """Close the connections once they have been released."""
        # From now on connections are returned to the driver's pool.
        self._valid.clear()
        while self._kept:
            await self.release(self._kept.pop(), failed=False)
        await self._pool.close()

    def terminate(self) -> None:
        """Cut all connections."""
        self._pool.terminate()


def _usable(connection: Connection) -> bool:
    """Return whether a connection is open; the place of a closed one goes back to the driver's pool."""
    try:
        if not connection.is_closed():
            return True
        connection.terminate()
    except asyncpg.InterfaceError:
        # The driver's pool has it back already.
        pass
    return False
