"""Runs statements that read whole ledgers for a caller, on connections of their own, so that nothing waits for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from server.store import hosts
from server.store.coalescer import QueueFullError
from server.store.driver_errors import translating
from server.store.errors import ConnectionLostError, StoreUnavailableError
from server.store.pools import RELEASE_TIMEOUT_SECONDS
from server.store.semaphores import acquired
from server.store.sessions import CONNECT_TIMEOUT_SECONDS, SESSION_SETTINGS
from server.store.sql import query

# Connections of a worker for reports, opened as they are needed: a ledger uses one, so another ledger finds one free.
REPORTS_MAX = 2
# Reports of one ledger that may wait in a worker, and seconds that each waits for the one before it and for a
# connection: most take a second or less.
REPORT_WAITERS_MAX = 16
REPORT_WAIT_SECONDS = 10.0
# Seconds that a report may take: 300,000 accounts at an instant of the past take three to five, without any entries.
REPORT_SECONDS = 30.0

# Each plan is made for the requested range. Scans stay off: a report reads a part of the table, by its index.
REPORT_SETTINGS = {
    **SESSION_SETTINGS,
    "application_name": "tallystick-report",
    "plan_cache_mode": "force_custom_plan",
    "statement_timeout": str(round(REPORT_SECONDS * 1000)),
}


class _Turn(asyncio.Semaphore):
    """The reports of one ledger, which run one after the other."""

    def __init__(self) -> None:
        super().__init__(1)
        # The reports that run or wait.
        self.count = 0


class Reports:
    """
    Runs reports: statements that take seconds.

    Args:
        dsn: Address of Postgres.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connections = asyncio.Semaphore(REPORTS_MAX)
        self._turns: dict[int, _Turn] = {}

    async def read(self, name: str, ledger_id: int, *arguments: object) -> "list[asyncpg.Record]":
        """
        Run the named statement about a ledger and return its rows.

        Raises:
            QueueFullError: Too many reports of the ledger wait already, or those before it took too long.
            StoreUnavailableError: Postgres did not answer, or not in time.
            DatabaseError: Postgres refuses the statement.
        """
        turn = self._turns.get(ledger_id)
        if turn is None:
            turn = self._turns[ledger_id] = _Turn()
        if turn.count > REPORT_WAITERS_MAX:
            raise QueueFullError
        turn.count += 1
        try:
            async with _held(turn), _held(self._connections):
                return await self._run(name, ledger_id, *arguments)
        finally:
            turn.count -= 1
            if not turn.count:
                del self._turns[ledger_id]

    async def _run(self, name: str, *arguments: object) -> "list[asyncpg.Record]":
        try:
            with translating():
                connection = await hosts.connect(
                    self._dsn,
                    timeout=CONNECT_TIMEOUT_SECONDS,
                    # The server's own timeout comes first, unless it hangs.
                    command_timeout=REPORT_SECONDS + RELEASE_TIMEOUT_SECONDS,
                    server_settings=REPORT_SETTINGS,
                )
                try:
                    return await connection.fetch(query(name), *arguments)
                finally:
                    await connection.close(timeout=RELEASE_TIMEOUT_SECONDS)
        except ConnectionLostError as error:
            # A report changes nothing, whether or not it was run.
            raise StoreUnavailableError(str(error)) from error


@asynccontextmanager
async def _held(semaphore: asyncio.Semaphore) -> AsyncIterator[None]:
    if not await acquired(semaphore, REPORT_WAIT_SECONDS):
        raise QueueFullError
    try:
        yield
    finally:
        semaphore.release()
