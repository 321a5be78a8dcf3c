"""Moves the clock of the books in tests, so that holds expire and value dates pass without a wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from tests.support.postgres import administer

# A clock. The service compares the text of this function with its own, and is not ready if it differs.
_CLOCK = """
    CREATE OR REPLACE FUNCTION tallystick.ledger_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT {now}
$$
"""
# Snapshots of accounts, of any database and ledger.
_SNAPSHOTS = "*:s:*"


class BooksClock:
    """
    The clock of one database, which no other test may use.

    The lifetime of a cached snapshot is computed when it is read. A jump of the books' time makes it wrong, so each
    jump removes the snapshots.

    Args:
        database_url: The address of the database, as its superuser.

        redis_url: The address of the service's Redis; None if it has none.
    """

    def __init__(self, database_url: str, redis_url: str | None) -> None:
        self._database_url = database_url
        self._redis_url = redis_url
        self._ahead = timedelta()

    async def now(self) -> datetime:
        """Return the time of the clock."""
        [row] = await administer(self._database_url, "SELECT tallystick.ledger_clock() AS now")
        return cast(datetime, row["now"])

    async def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*; it runs on from there."""
        self._ahead += timedelta(seconds=seconds)
        await self._run_ahead()

    async def stop_at(self, instant: datetime | str) -> None:
        """Stop the clock at an instant."""
        text = instant if isinstance(instant, str) else instant.isoformat()
        await self._set(f"timestamptz '{text}'")

    async def run_true(self) -> None:
        """Restore the clock of the service."""
        self._ahead = timedelta()
        await self._set("clock_timestamp()")

    @asynccontextmanager
    async def true_meanwhile(self) -> AsyncIterator[None]:
        """Restore the clock of the service during the block: a server that starts is not ready with another one."""
        await self._set("clock_timestamp()")
        try:
            yield
        finally:
            await self._run_ahead()

    async def _run_ahead(self) -> None:
        await self._set(f"clock_timestamp() + interval '{self._ahead.total_seconds()} s'")

    async def _set(self, now: str) -> None:
        await administer(self._database_url, _CLOCK.format(now=now))
        if self._redis_url is None:
            return
        async with Redis.from_url(self._redis_url) as redis:
            names = [name async for name in redis.scan_iter(_SNAPSHOTS, count=10_000)]
            if names:
                await redis.delete(*names)


@asynccontextmanager
async def moved_clock(database_url: str, redis_url: str | None) -> AsyncIterator[BooksClock]:
    """Yield the clock of a database, and restore it afterwards."""
    clock = BooksClock(database_url, redis_url)
    try:
        yield clock
    finally:
        await clock.run_true()
