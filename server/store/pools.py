"""Pools of connections: how they are made, and how a connection is handed back."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import asyncpg

from server.store import hosts
from server.store.sessions import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    SESSION_SETTINGS,
    ServiceConnection,
)

# How long handing a connection back may take: waiting for a cancelled statement's backend, or taking leave of a server.
# What was done on it is decided by then, and its caller waits; past this the connection is cut.
RELEASE_TIMEOUT_SECONDS = 0.5

log = logging.getLogger(__name__)


async def create_pool(
    dsn: str, size: int, meet: "Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]]"
) -> "asyncpg.Pool[asyncpg.Record]":
    """
    Return a pool of up to *size* connections; none is opened here, so Postgres may be away.

    Args:
        meet: Is shown each connection before it is used.
    """
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
    """Hand a connection back; a failure to do so is not one of what was done on it."""
    try:
        await pool.release(connection, timeout=RELEASE_TIMEOUT_SECONDS)
    except Exception as error:
        # asyncpg has cut the connection and made room for another.
        log.warning("a connection was not handed back: %s", type(error).__name__)
