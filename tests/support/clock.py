"""The clock of the books, which tests move: holds expire and value dates pass without anybody waiting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from tests.support.postgres import administer

# A clock; the service knows its own by the very text, and is not ready with another.
_CLOCK = """
    CREATE OR REPLACE FUNCTION tallystick.ledger_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT {now}
$$
"""
# Snapshots of accounts, of whatever database and ledger.
_SNAPSHOTS = "*:s:*"


class BooksClock:
    """
    The clock of one database; nobody else may use that database.

    A cached snapshot lives for a time measured when it was read. Where the books' time jumps that time is wrong, so
    each jump removes the snapshots.

    Args:
        database_url: As its superuser.

        redis_url: Of the service; None where it has no Redis.
    """

    def __init__(self, database_url: str, redis_url: str | None) -> None:
        self._database_url = database_url
        self._redis_url = redis_url
        self._ahead = timedelta()

    async def now(self) -> datetime:
        """Return what the clock says."""
        [row] = await administer(self._database_url, "SELECT tallystick.ledger_clock() AS now")
        return cast(datetime, row["now"])

    async def advance(self, seconds: float) -> None:
        """Let the clock jump so far, and run on from there."""
        self._ahead += timedelta(seconds=seconds)
        await self._run_ahead()

    async def stop_at(self, instant: datetime | str) -> None:
        """Let the clock stand still at an instant."""
        text = instant if isinstance(instant, str) else instant.isoformat()
        await self._set(f"timestamptz '{text}'")

    async def run_true(self) -> None:
        """Let the clock be the one of the service again."""
        self._ahead = timedelta()
        await self._set("clock_timestamp()")

    @asynccontextmanager
    async def true_meanwhile(self) -> AsyncIterator[None]:
        """Let the clock be that of the service for a while: a server that starts is not ready with another."""
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
    """Lend the clock of a database, and set it right afterwards."""
    clock = BooksClock(database_url, redis_url)
    try:
        yield clock
    finally:
        await clock.run_true()
