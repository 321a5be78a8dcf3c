"""Row locks in the way of the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.postgres import administer


@asynccontextmanager
async def held(database_url: str, account: str) -> AsyncIterator[None]:
    """Hold the row lock of an account in a foreign session."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM tallystick.accounts WHERE id = $1 FOR UPDATE", account)
            yield
    finally:
        await connection.close()


async def somebody_waits(database_url: str) -> bool:
    """Whether a session of the database waits for a lock."""
    rows = await administer(
        database_url,
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
    )
    return bool(rows)
