"""Connections kept in a pool: which caller gets them, and when they are replaced."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from server.store.driver_errors import DRIVER_ERRORS
from server.store.pools import Connection, Pool
from tests.support.waiting import until

# Seconds in which a connection is opened, even on a busy machine.
PATIENCE_SECONDS = 30.0
# Shorter than any other wait for a connection that is in use.
SHORT_SECONDS = 0.05


async def met(_connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Accept every new connection without a check."""


@asynccontextmanager
async def opened(
    dsn: str, size: int, meet: "Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]]" = met
) -> AsyncIterator[Pool]:
    """A pool that is closed afterwards; closing fails if a connection was lost."""
    pool = Pool(dsn, size, meet)
    await pool.open()
    try:
        yield pool
    finally:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await pool.close()


async def backend(connection: Connection) -> int:
    """Return the process id of a connection's backend."""
    return int((await connection.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"])


async def used(pool: Pool) -> int:
    """Use a connection successfully, and return the process id of its backend."""
    connection = await pool.acquire(PATIENCE_SECONDS)
    pid = await backend(connection)
    await pool.release(connection, failed=False)
    return pid


async def test_the_next_caller_gets_the_connection_of_the_last(database_url: str) -> None:
    """A pool used by one caller at a time opens one connection; connections that are not in use count as idle."""
    async with opened(database_url, 3) as pool:
        assert len({await used(pool) for _ in range(5)}) == 1
        assert (pool.size, pool.idle) == (1, 1)
        lent = [await pool.acquire(PATIENCE_SECONDS) for _ in range(2)]
        assert len({await backend(connection) for connection in lent}) == 2
        assert (pool.size, pool.idle) == (2, 0)
        for connection in lent:
            await pool.release(connection, failed=False)
        assert (pool.size, pool.idle) == (2, 2)


async def test_whoever_waits_gets_what_is_released(database_url: str) -> None:
    """A released connection goes to a waiting caller, and no more than the maximum are in use at once."""
    async with opened(database_url, 2) as pool:
        away = most = 0

        async def caller() -> None:
            nonlocal away, most
            for _ in range(20):
                connection = await pool.acquire(PATIENCE_SECONDS)
                away += 1
                most = max(most, away)
                await backend(connection)
                away -= 1
                await pool.release(connection, failed=False)

        await asyncio.gather(*(caller() for _ in range(8)))
        assert most == 2
        assert (pool.size, pool.idle) == (2, 2)


async def test_the_wait_is_bounded(database_url: str) -> None:
    """
    While all connections are in use, a caller waits no longer than its timeout, and later callers still get
    connections.
    """
    async with opened(database_url, 1) as pool:
        lent = await pool.acquire(PATIENCE_SECONDS)
        with pytest.raises(TimeoutError):
            await pool.acquire(SHORT_SECONDS)
        await pool.release(lent, failed=False)
        assert await used(pool) == await used(pool)


async def test_a_connection_whose_statement_failed(database_url: str) -> None:
    """After a statement failed or timed out, it has ended before the connection is used again."""
    async with opened(database_url, 1) as pool:
        for failing in ("SELECT 1 / 0", "SELECT pg_sleep(60)"):
            connection = await pool.acquire(PATIENCE_SECONDS)
            with pytest.raises(DRIVER_ERRORS):
                await connection.fetch(failing, timeout=SHORT_SECONDS)
            await pool.release(connection, failed=True)
            assert await used(pool) == await used(pool)
        assert (pool.size, pool.idle) == (1, 1)


async def test_a_connection_that_died_while_nobody_used_it(database_url: str) -> None:
    """A connection that died while it was idle is not handed out, and a new one replaces it."""
    async with opened(database_url, 1) as pool:
        connection = await pool.acquire(PATIENCE_SECONDS)
        pid = await backend(connection)
        await pool.release(connection, failed=False)
        other = await asyncpg.connect(database_url)
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        await other.close()
        await until(lambda: pool.size == 0)
        assert await used(pool) != pid
        assert (pool.size, pool.idle) == (1, 1)


async def test_expired_connections_are_replaced(database_url: str) -> None:
    """After an expiry, no older connection is handed out again, whether it was idle, in use, or just being opened."""
    making, expired = asyncio.Event(), asyncio.Event()

    async def meet(_connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        if pool.size == 2:
            making.set()
            await expired.wait()

    async with opened(database_url, 3, meet) as pool:
        kept, lent = [await pool.acquire(PATIENCE_SECONDS) for _ in range(2)]
        before = {await backend(kept), await backend(lent)}
        coming = asyncio.create_task(pool.acquire(PATIENCE_SECONDS))
        await making.wait()
        await pool.release(kept, failed=False)
        await pool.expire()
        expired.set()
        for connection in (lent, await coming):
            before.add(await backend(connection))
            await pool.release(connection, failed=False)
        assert len(before) == 3
        again = [await pool.acquire(PATIENCE_SECONDS) for _ in range(3)]
        assert before.isdisjoint([await backend(connection) for connection in again])
        for connection in again:
            await pool.release(connection, failed=False)


async def test_closing_leaves_no_connection(database_url: str) -> None:
    """A closed pool has ended the connections that it kept."""
    async with opened(database_url, 2) as pool:
        pid = await used(pool)
    other = await asyncpg.connect(database_url)
    try:

        async def ended() -> bool:
            return not await other.fetch("SELECT FROM pg_stat_activity WHERE pid = $1", pid)

        await until(ended)
    finally:
        await other.close()
