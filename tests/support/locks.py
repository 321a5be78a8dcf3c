"""Holds locks that block the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.postgres import administer


@asynccontextmanager
async def held(database_url: str, *ids: str, table: str = "accounts") -> AsyncIterator[int]:
    """
    Hold the locks of accounts, or other rows, in all ledgers, in a transaction outside the service; yield the process
    id of its session.
    """
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            locking = f"SELECT FROM tallystick.{table} WHERE id::text = ANY ($1) FOR UPDATE"
            assert await connection.execute(locking, ids) != "SELECT 0"
            yield connection.get_server_pid()
    finally:
        await connection.close()


@asynccontextmanager
async def inserts_held(database_url: str) -> AsyncIterator[None]:
    """Stop every posting after it has checked whether its keys are bound, just before it binds them."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE tallystick.transfers IN SHARE MODE")
            yield
    finally:
        await connection.close()


async def somebody_waits(database_url: str, sessions: int = 1) -> bool:
    """Return whether at least *sessions* sessions of the database wait for a lock."""
    rows = await administer(
        database_url,
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
    )
    return len(rows) >= sessions


async def somebody_waits_for(database_url: str, pid: int) -> bool:
    """Return whether a session waits for a lock of the session with this process id."""
    blocked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND $1 = ANY (pg_blocking_pids(pid))"
    return bool(await administer(database_url, blocked, pid))
