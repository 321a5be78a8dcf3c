"""Holds locks that block the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.postgres import administer


@asynccontextmanager
async def held(database_url: str, *accounts: str) -> AsyncIterator[None]:
    """Hold the row locks of accounts in all ledgers, in a transaction outside the service."""
    async with _rows_held(database_url, "SELECT FROM tallystick.accounts WHERE id = ANY ($1) FOR UPDATE", accounts):
        yield


@asynccontextmanager
async def progress_held(database_url: str, *parents: str) -> AsyncIterator[int]:
    """
    Hold the locks of the rows that tell what has become of transfers, in a transaction outside the service; yield the
    process id of its session.
    """
    locking = "SELECT FROM tallystick.transfer_progress WHERE id = ANY ($1::uuid[]) FOR UPDATE"
    async with _rows_held(database_url, locking, parents) as pid:
        yield pid


@asynccontextmanager
async def _rows_held(database_url: str, locking: str, ids: tuple[str, ...]) -> AsyncIterator[int]:
    """Run a statement that locks the rows of some ids, yield its session's process id, and end its transaction."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
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
