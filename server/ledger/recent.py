"""Instants of the last moments: what is asked of them waits until nothing can be added before them any more."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from server.ledger.row_locks import RowLocks
from server.store.errors import RowLockedError
from server.store.lanes import LedgerLanes
from server.store.postgres import READ_DEADLINE_SECONDS, Database

# An instant older than this, by this machine's clock, is past for good. The longest posting holds its locks for the
# two and a half seconds of a statement; the rest is for clocks of workers that differ from the database's.
RECENT: Final = timedelta(seconds=60)
# Accounts a statement: it holds a share of their rows for as long as its commit takes, and postings wait for it.
BATCH_MAX: Final = 50
# Callers of one ledger that may wait for a statement: tens of milliseconds of work.
QUEUE_MAX: Final = 1_000


class RecentInstants:
    """
    Waits for the postings that may have taken an earlier instant and not committed yet.

    A posting takes its instant while it holds the rows of its accounts. So once their row has been locked here after an
    instant, whatever happened to an account up to it is committed, and whatever follows is later.

    Args:
        database: Where the accounts are.

        rows: What is known of locked accounts, and who waits for them.
    """

    def __init__(self, database: Database, rows: RowLocks) -> None:
        self._database = database
        self._rows = rows
        # One statement of a ledger is away at a time that takes free rows only, and one that waits for rows.
        self._lanes: dict[bool, LedgerLanes[str, datetime | None]] = {
            waits: LedgerLanes(
                lambda ledger_id, run=run: partial(run, ledger_id),  # type: ignore[misc]  # run is no argument
                batch_max=BATCH_MAX,
                in_flight_max=1,
                queue_max=QUEUE_MAX,
            )
            for waits, run in ((False, self._run), (True, self._run_waiting))
        }

    async def wait(self, ledger_id: int, account: str, at: datetime, on_wait: Callable[[], None] | None = None) -> bool:
        """
        Return when nothing can be added to the account at or before *at*, which costs nothing unless it is recent.

        Args:
            on_wait: Called once if it has to wait for a locked account.

        Returns:
            False when the instant has not come yet, by the database's clock: then there was nothing to wait for.

        Raises:
            QueueFullError: Too many wait already.
            StoreUnavailableError: The account stayed locked, or Postgres could not be asked in time.
        """
        if not -RECENT <= at - datetime.now(UTC) <= RECENT:
            return True

        async def attempt(waits: bool) -> datetime | None:
            return await self._lanes[waits].submit(ledger_id, account)

        deadline = time.monotonic() + READ_DEADLINE_SECONDS
        clock = await self._rows.outlast(ledger_id, attempt, deadline, on_wait, needed=[account])
        return clock is None or clock > at

    async def _run(self, ledger_id: int, accounts: list[str]) -> list[datetime | BaseException | None]:
        """Lock the rows that are free, and return when; RowLockedError for the others, None for missing accounts."""
        rows = await self._database.read_once("account_clock_many", ledger_id, sorted(set(accounts)))
        clocks = {row["id"]: row["clock"] or RowLockedError((row["id"],)) for row in rows}
        return [clocks.get(account) for account in accounts]

    async def _run_waiting(self, ledger_id: int, accounts: list[str]) -> list[datetime | BaseException | None]:
        """Do the same, waiting for rows that are locked for a moment; RowLockedError for all where one stays locked."""
        stuck = {account for account in accounts if self._rows.stuck(ledger_id, [account])}
        names = sorted({*accounts} - stuck)
        clocks: dict[str, datetime | BaseException] = {account: RowLockedError((account,)) for account in stuck}
        statement = partial(self._database.read_once, "account_clock_many_waiting", ledger_id, names)
        try:
            rows = await self._rows.run_waiting(self._rows.reading_turns, ledger_id, names, statement)
            clocks.update((row["id"], row["clock"]) for row in rows)
        except RowLockedError:
            clocks.update((account, RowLockedError((account,))) for account in names)
        return [clocks.get(account) for account in accounts]
