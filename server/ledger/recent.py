"""Instants of the last moments: what is asked of them waits until nothing can be added before them any more."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from server.store.coalescer import QueueFullError
from server.store.errors import StoreAwayError, StoreUnavailableError
from server.store.lanes import LedgerLanes
from server.store.postgres import READ_DEADLINE_SECONDS, Database

# An instant older than this, by this machine's clock, is past for good. The longest posting holds its locks for the
# two and a half seconds of a statement; the rest is for clocks of workers that differ from the database's.
RECENT: Final = timedelta(seconds=60)
# Accounts a statement: it holds a share of their rows for as long as its commit takes, and postings wait for it.
BATCH_MAX: Final = 50
# Callers of one ledger that may wait: tens of milliseconds of work, or one row that somebody keeps locked.
QUEUE_MAX: Final = 1_000
# Seconds between attempts on a row that stays locked.
RETRY_SECONDS: Final = 0.25


class RecentInstants:
    """
    Waits for the postings that may have taken an earlier instant and not committed yet.

    A posting takes its instant while it holds the rows of its accounts. So once their row has been had after an
    instant, whatever happened to an account up to it is committed, and whatever follows is later.

    Args:
        database: Where the accounts are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # One statement of a ledger is away at a time: a row that stays locked keeps one connection, not all of them.
        self._lanes: LedgerLanes[str, datetime | None] = LedgerLanes(
            lambda ledger_id: partial(self._run, ledger_id), batch_max=BATCH_MAX, in_flight_max=1, queue_max=QUEUE_MAX
        )

    async def wait(self, ledger_id: int, account: str, at: datetime) -> bool:
        """
        Return when nothing can be added to the account at or before *at*, which costs nothing unless it is recent.

        Returns:
            False when the instant has not come yet, by the database's clock: then there was nothing to wait for.

        Raises:
            QueueFullError: Too many wait already.
            StoreUnavailableError: The account stayed locked, or Postgres could not be asked in time.
        """
        if not -RECENT <= at - datetime.now(UTC) <= RECENT:
            return True
        deadline = time.monotonic() + READ_DEADLINE_SECONDS
        while True:
            try:
                clock = await self._lanes.submit(ledger_id, account)
                return clock is None or clock > at
            except StoreUnavailableError as error:
                # Outside the lane, so that nobody else waits for a row that stays locked.
                if isinstance(error, StoreAwayError) or time.monotonic() + RETRY_SECONDS > deadline:
                    raise
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter, not a secret

    async def _run(self, ledger_id: int, accounts: list[str]) -> list[datetime | BaseException | None]:
        """Have the rows of these accounts once and say when, each for itself where together they cannot be had."""
        names = sorted(set(accounts))
        clocks: dict[str, datetime | BaseException] = {}
        try:
            clocks.update(await self._have(ledger_id, names))
        except StoreUnavailableError as together:
            if len(names) == 1 or isinstance(together, StoreAwayError):
                raise
            for name in names:
                try:
                    clocks.update(await self._have(ledger_id, [name]))
                except (StoreUnavailableError, QueueFullError) as error:
                    clocks[name] = error
        return [clocks.get(account) for account in accounts]

    async def _have(self, ledger_id: int, names: list[str]) -> dict[str, datetime]:
        rows = await self._database.read_once("account_wait_many", ledger_id, names)
        return {row["id"]: row["clock"] for row in rows}
