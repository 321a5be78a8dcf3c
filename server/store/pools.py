"""Pools of connections: how they are made, and how a connection is released."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import asyncpg

from server.store import hosts
from server.store.array_arguments import take_lists_and_tuples
from server.store.sessions import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    SESSION_SETTINGS,
    ServiceConnection,
)

# Seconds that releasing a connection may take, while its caller waits: the pool waits for the backend of a cancelled
# statement, or for a server to close. What was done is decided by then; past this the connection is cut.
RELEASE_TIMEOUT_SECONDS = 0.5

log = logging.getLogger(__name__)


async def create_pool(
    dsn: str, size: int, meet: "Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]]"
) -> "asyncpg.Pool[asyncpg.Record]":
    """
    Return a pool of up to *size* connections; none is opened here, so Postgres may be away.

    Args:
        meet: Examines each connection before it is used.
    """
    take_lists_and_tuples()
    return await asyncpg.create_pool(
        dsn,
        # The stub of asyncpg spells out every argument that is handed through.
        connect=cast(Any, hosts.connect),
        connection_class=ServiceConnection,
        init=cast(Any, meet),
        min_size=0,
        max_size=size,
        max_inactive_connection_lifetime=0,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        server_settings=SESSION_SETTINGS,
    )


async def release(
    pool: "asyncpg.Pool[asyncpg.Record]", connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
) -> None:
    """Release a connection; a failure to do so does not concern what was done on it."""
    try:
        await pool.release(connection, timeout=RELEASE_TIMEOUT_SECONDS)
    except Exception as error:
        # asyncpg has cut the connection, and the pool may open another.
        log.warning("a connection was not released: %s", type(error).__name__)
