"""Recent instants: waits until no entry before such an instant can be added any more."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from server.ledger.row_locks import RowLocks
from server.store.errors import RowLockedError
from server.store.lanes import LedgerLanes
from server.store.postgres import READ_DEADLINE_SECONDS, Database

# No entry can be added before an instant that is older than this by this machine's clock. A posting holds its locks for
# at most the two and a half seconds of a statement; the rest allows for clocks that differ from the database's.
RECENT: Final = timedelta(seconds=60)
# Accounts in a statement: it locks their rows (FOR SHARE) until it commits, and postings wait for it.
BATCH_MAX: Final = 50
# Callers of one ledger that may wait for a statement: tens of milliseconds of work.
QUEUE_MAX: Final = 1_000


class RecentInstants:
    """
    Waits for postings that have taken an earlier instant and have not committed yet.

    A posting takes its instant while it holds the rows of its accounts. So once an account's row has been locked here
    after an instant, all its entries up to that instant are committed, and all later entries get later instants.

    Args:
        database: Holds the accounts.

        rows: Knows the locked accounts, and the requests that wait for them.
    """

    def __init__(self, database: Database, rows: RowLocks) -> None:
        self._database = database
        self._rows = rows
        # A ledger has one statement in flight that takes free rows only, and one that may wait for rows.
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
        Return when no entry at or before *at* can be added to the account any more; at once if *at* is not recent.

        Args:
            on_wait: Called once if the caller has to wait for a locked account.

        Returns:
            False if the instant is recent and has not come yet, by the database's clock.

        Raises:
            QueueFullError: Too many callers wait already.
            StoreUnavailableError: The account stayed locked, or Postgres could not be asked in time.
        """
        if not -RECENT <= at - datetime.now(UTC) <= RECENT:
            return True
        clock = await self.now(ledger_id, account, on_wait)
        return clock is None or clock > at

    def is_past(self, at: datetime) -> bool:
        """Whether no entry at or before *at* can be added to any account any more, without a look at its row."""
        return at < datetime.now(UTC) - RECENT

    async def now(self, ledger_id: int, account: str, on_wait: Callable[[], None] | None = None) -> datetime | None:
        """
        Return an instant of the database's clock: all entries of the account up to it are committed, and none can be
        added any more. None if there is no such account.

        Args, Raises: As `wait`.
        """

        async def attempt(waits: bool) -> datetime | None:
            return await self._lanes[waits].submit(ledger_id, account)

        deadline = time.monotonic() + READ_DEADLINE_SECONDS
        return await self._rows.retry_while_locked(ledger_id, attempt, deadline, on_wait, needed=[account])

    async def _run(self, ledger_id: int, accounts: list[str]) -> list[datetime | BaseException | None]:
        """Return when each row was locked; RowLockedError for a row that is not free, None for a missing account."""
        rows = await self._database.read_once("account_clock_many", ledger_id, sorted(set(accounts)))
        clocks = {row["id"]: row["clock"] or RowLockedError((row["id"],)) for row in rows}
        return [clocks.get(account) for account in accounts]

    async def _run_waiting(self, ledger_id: int, accounts: list[str]) -> list[datetime | BaseException | None]:
        """Do the same, but wait for locked rows; if one stays locked, the result of all is a RowLockedError."""
        stuck = {account for account in accounts if self._rows.stuck(ledger_id, [account])}
        names = sorted({*accounts} - stuck)
        clocks: dict[str, datetime | BaseException] = {account: RowLockedError((account,)) for account in stuck}
        statement = partial(self._database.read_once, "account_clock_many_waiting", ledger_id, names)
        try:
            rows = await self._rows.run_waiting(self._rows.reading_lock_waits, ledger_id, names, statement)
            clocks.update((row["id"], row["clock"]) for row in rows)
        except RowLockedError:
            clocks.update((account, RowLockedError((account,))) for account in names)
        return [clocks.get(account) for account in accounts]
