"""
Tracks rows that other transactions have locked, of accounts above all; requests wait here without a connection.

A row is an account, named by its id, or the progress of a parent, named `parent` and its id, separated by a blank.
Rows of other tables are named by their ids.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from server.store.background import stop
from server.store.coalescer import QueueFullError
from server.store.errors import RowLockedError, StoreError
from server.store.postgres import Database
from server.store.resend import SENDING_MIN_SECONDS
from server.store.semaphores import acquired

# Seconds for which batches of several ledgers may wait for locked rows of a ledger after such a wait succeeded. This
# way, batches that post to the same accounts queue in the database.
CONTENDED_SECONDS: Final = 10.0
# Seconds for which no statement waits for a row after a wait for it timed out.
STUCK_SECONDS: Final = 10.0
# Seconds for which no batch of several ledgers waits for rows of a ledger after such a wait timed out. By then it is
# known which row is stuck.
HELD_UP_SECONDS: Final = 2.0
# One in this many connections may wait for locked rows; the others serve requests that need none of these rows.
CONNECTIONS_PER_LOCK_WAIT: Final = 2
# Seconds that a statement waits for one of these connections: two lock timeouts of the statements that hold them.
LOCK_WAIT_SECONDS: Final = 0.5
# Seconds between two polls of the rows that requests wait for.
POLL_SECONDS: Final = 0.25
# Seconds that a write of a single row may take in all while the row is locked: as long as a change of an account.
WRITE_DEADLINE_SECONDS: Final = 5.0
# Requests that may wait for one row, and for rows of one table. Each holds its body in memory. When a row becomes free,
# all its requests are sent at once, so they should fit into one batch.
ROW_WAITERS_MAX: Final = 500
WAITERS_MAX: Final = 4_000

T = TypeVar("T")
Row = tuple[int, str]


class _Watched:
    """A row that requests wait for: the version it had when it was first seen locked, and the futures to wake."""

    __slots__ = ("version", "waiters")

    def __init__(self) -> None:
        self.version: int | None = None
        self.waiters: set[asyncio.Future[None]] = set()


class RowLocks:
    """
    Tracks locked rows and the requests that wait for them.

    A statement first takes only rows that are free. A request that needs a locked row is then sent again to wait for it
    in the database, apart from other ledgers and on a limited share of the connections. There are two cases. If another
    posting held the row for some milliseconds, the ledger counts as contended for a while, and batches wait for its
    rows at once. If a transaction keeps the row locked, the wait times out, the row counts as stuck, and requests wait
    here until a poll finds it free or changed. No statement waits for the progress of a parent: only other programs
    lock it while its accounts are free.

    Args:
        database: Where the rows are.

        locked: Name of the statement that finds the locked ones among rows of a table, and returns their versions. Each
            table has its own statement. Where this class names accounts, the same holds for rows of other tables.

    Attributes:
        posting_lock_waits, reading_lock_waits: Semaphores that statements of the two pools hold while they may wait for
            locked rows.
    """

    def __init__(self, database: Database, locked: str = "row_locked_many") -> None:
        self._database = database
        self._locked = locked
        self._others: list[RowLocks] = []
        self.posting_lock_waits = asyncio.Semaphore(max(1, database.posting_connections // CONNECTIONS_PER_LOCK_WAIT))
        self.reading_lock_waits = asyncio.Semaphore(max(1, database.reading_connections // CONNECTIONS_PER_LOCK_WAIT))
        # Until when each ledger or row counts as such, on the clock of `time.monotonic`.
        self._contended: dict[int, float] = {}
        self._held_up: dict[int, float] = {}
        self._stuck: dict[Row, float] = {}
        self._watched: dict[Row, _Watched] = {}
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None

    def beside(self, locked: str) -> "RowLocks":
        """Return the locks of another table, which share these connections that may wait and are closed with these."""
        other = RowLocks(self._database, locked)
        other.posting_lock_waits, other.reading_lock_waits = self.posting_lock_waits, self.reading_lock_waits
        self._others.append(other)
        return other

    def contended(self, ledger_ids: Iterable[int]) -> set[int]:
        """Return which of the ledgers are contended: a batch of several ledgers may wait for their rows."""
        if not self._contended:
            return set()
        now = time.monotonic()
        return {ledger_id for ledger_id in ledger_ids if self._contended.get(ledger_id, 0.0) > now}

    def note_contended(self, ledger_id: int) -> None:
        """Note that rows of the ledger were locked only for a moment, unless the ledger has just held up a batch."""
        now = time.monotonic()
        if self._held_up.get(ledger_id, 0.0) > now:
            return
        self._contended = {ledger: until for ledger, until in self._contended.items() if until > now}
        self._contended[ledger_id] = now + CONTENDED_SECONDS

    def note_held_up(self, ledger_ids: Iterable[int]) -> None:
        """Note ledgers for whose rows a batch of several ledgers waited until the timeout: for a while none waits."""
        now = time.monotonic()
        self._held_up = {ledger: until for ledger, until in self._held_up.items() if until > now}
        for ledger_id in ledger_ids:
            self._held_up[ledger_id] = now + HELD_UP_SECONDS
            self._contended.pop(ledger_id, None)

    @property
    def any_stuck(self) -> bool:
        """Whether any account may be stuck."""
        return bool(self._stuck or self._watched)

    def stuck(self, ledger_id: int, accounts: Iterable[str]) -> bool:
        """Whether one of the accounts is stuck; this costs nothing while none is."""
        if not self.any_stuck:
            return False
        now = time.monotonic()
        return any(
            (ledger_id, account) in self._watched or self._stuck.get((ledger_id, account), 0.0) > now
            for account in accounts
        )

    def note_stuck(self, ledger_id: int, accounts: Iterable[str]) -> None:
        """Note accounts as stuck: a statement's wait for them timed out."""
        now = time.monotonic()
        self._stuck = {row: until for row, until in self._stuck.items() if until > now}
        self._stuck.update(((ledger_id, account), now + STUCK_SECONDS) for account in accounts)

    async def retry_while_locked(
        self,
        ledger_id: int,
        attempt: Callable[[bool], Awaitable[T]],
        deadline: float,
        on_wait: Callable[[], None] | None = None,
        needed: Sequence[str] = (),
    ) -> T:
        """
        Return what *attempt* returns. It is repeated until the deadline while rows that it needs are locked.

        Args:
            attempt: Takes whether it may wait for rows. Raises RowLockedError with the names of the locked rows.

            deadline: On the clock of `time.monotonic`, in seconds.

            on_wait: Called once before the first wait, so that the request can give its place to another one.

            needed: Accounts that every attempt needs, as far as they are known.

        Raises:
            RowLockedError: A row stayed locked; nothing was done.
            QueueFullError: Too many requests wait for rows already; nothing was done.
        """
        accounts = tuple(needed)
        if not self.stuck(ledger_id, accounts):
            try:
                return await attempt(False)
            except RowLockedError as error:
                accounts = error.accounts
        if on_wait is not None:
            on_wait()
        if self.stuck(ledger_id, accounts):
            await self._wait_for_change(ledger_id, accounts, deadline)
        while True:
            try:
                return await attempt(True)
            except RowLockedError as error:
                accounts = error.accounts
                if time.monotonic() + SENDING_MIN_SECONDS + POLL_SECONDS > deadline:
                    raise
            await self._wait_for_change(ledger_id, accounts, deadline)

    async def write(
        self, ledger_id: int, row: str, statement: Callable[[], Awaitable[T]], on_wait: Callable[[], None]
    ) -> T:
        """
        Return what a statement on the posting pool returns that writes a single row, once the row is free.

        Args:
            on_wait: Called once before the first wait.

        Raises:
            As `retry_while_locked`.
        """

        async def attempt(waits: bool) -> T:
            if waits:
                return await self.run_waiting(self.posting_lock_waits, ledger_id, (row,), statement)
            if await self._database.read_locks(self._locked, ledger_id, [row]):
                raise RowLockedError((row,))
            try:
                return await statement()
            except RowLockedError as error:
                raise RowLockedError((row,)) from error

        return await self.retry_while_locked(
            ledger_id, attempt, time.monotonic() + WRITE_DEADLINE_SECONDS, on_wait, needed=(row,)
        )

    async def run_waiting(
        self,
        semaphore: asyncio.Semaphore,
        ledger_id: int,
        accounts: Sequence[str],
        statement: Callable[[], Awaitable[T]],
    ) -> T:
        """
        Run a statement that may wait for the rows of *accounts*, on one of the few connections that may wait.

        Args:
            semaphore: Semaphore of the pool that the statement runs on.

        Raises:
            RowLockedError: A row stayed locked, or the semaphore was not free in time; nothing was done.
        """
        if not await acquired(semaphore, LOCK_WAIT_SECONDS):
            raise RowLockedError(accounts)
        try:
            if self.stuck(ledger_id, accounts):
                # Another statement has found that out in the meantime.
                raise RowLockedError(accounts)
            return await statement()
        except RowLockedError as error:
            self.note_stuck(ledger_id, accounts)
            raise RowLockedError(accounts) from error
        finally:
            semaphore.release()

    async def close(self) -> None:
        """Stop polling."""
        for other in self._others:
            await other.close()
        await stop(self._poller)

    async def _wait_for_change(self, ledger_id: int, accounts: Iterable[str], deadline: float) -> None:
        """
        Return when a poll finds one of the rows free or changed.

        Raises:
            RowLockedError: No row was free or changed in time.
            QueueFullError: Too many requests wait for one of the rows, or for rows in all.
        """
        loop = asyncio.get_running_loop()
        rows = [(ledger_id, account) for account in accounts]
        crowded = any(len(self._watched[row].waiters) >= ROW_WAITERS_MAX for row in rows if row in self._watched)
        if crowded or self._waiting >= WAITERS_MAX:
            raise QueueFullError
        waiter: asyncio.Future[None] = loop.create_future()

        def give_up() -> None:
            if not waiter.done():
                waiter.set_exception(RowLockedError(account for _, account in rows))

        for row in rows:
            self._watched.setdefault(row, _Watched()).waiters.add(waiter)
        if self._poller is None or self._poller.done():
            self._poller = loop.create_task(self._poll())
        # A timer of the loop, since a hot request may run outside a task.
        timer = loop.call_later(max(0.0, deadline - SENDING_MIN_SECONDS - time.monotonic()), give_up)
        self._waiting += 1
        try:
            await waiter
        finally:
            self._waiting -= 1
            timer.cancel()
            for row in rows:
                watched = self._watched.get(row)
                if watched is not None:
                    watched.waiters.discard(waiter)
                    if not watched.waiters:
                        del self._watched[row]

    async def _poll(self) -> None:
        """Poll the rows that requests wait for, as long as there are any."""
        while self._watched:
            await asyncio.sleep(POLL_SECONDS)
            by_ledger: dict[int, list[str]] = {}
            for ledger_id, account in self._watched:
                by_ledger.setdefault(ledger_id, []).append(account)
            for ledger_id, accounts in by_ledger.items():
                try:
                    rows = await self._database.read_locks(self._locked, ledger_id, sorted(accounts))
                except StoreError:
                    # While Postgres does not answer, nothing can be posted either: the deadlines end the waits.
                    continue
                versions = {row["name"]: row["version"] for row in rows}
                for account in accounts:
                    self._note_version((ledger_id, account), versions.get(account))

    def _note_version(self, row: Row, version: int | None) -> None:
        """Wake the requests that wait for a row, unless it is still locked at the same *version* (None: it is free)."""
        watched = self._watched.get(row)
        if watched is None:
            return
        if version is not None and watched.version in (None, version):
            watched.version = version
            return
        self._stuck.pop(row, None)
        del self._watched[row]
        for waiter in watched.waiters:
            if not waiter.done():
                waiter.set_result(None)
