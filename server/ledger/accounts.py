"""Accounts: opening, reading, listing and changing them."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

import asyncpg

from server.ledger.invalidation import InvalidatingDatabase, Versions, account_shown
from server.ledger.limits import METADATA_KEYS_MAX
from server.ledger.row_locks import RowLocks
from server.store.cache import Cache, Snapshot
from server.store.coalescer import QueueFullError
from server.store.errors import ConstraintError, OutcomeUnknownError, RowLockedError, StoreUnavailableError
from server.store.lanes import LedgerLanes
from server.store.postgres import Database
from server.store.sessions import LOCK_TIMEOUT_MS
from server.telemetry.tallies import BatchTally

# Accounts in a query. The query's cost grows with their number; 200 take about a millisecond.
READ_BATCH_MAX = 200
# Read batches of one ledger in flight at once.
READ_IN_FLIGHT_MAX = 2
# Seconds that a read may wait for a batch: its caller has given up by then.
READ_WAIT_MAX_SECONDS = 1.0
# Seconds that opening or changing accounts may take in all while rows are locked.
WRITE_DEADLINE_SECONDS = 5.0
# The lock_timeout of a statement, in milliseconds, by whether it may wait for locked rows.
WAIT_MS = {False: "1", True: str(LOCK_TIMEOUT_MS)}


class Account(NamedTuple):
    """An account as it was committed, its columns in the order of `account_read_many`."""

    id: str
    currency: str
    balance: int
    held_in: int
    held_out: int
    floor: int | None
    ceiling: int | None
    version: int
    closed: bool
    # JSON text: an object of strings.
    metadata: str
    created_at: datetime
    # Milliseconds from the read until one of its holds expires; None if no open hold does. 0 if the version counts a
    # due hold: a transfer that has not committed yet may take the same version, so this must not be shown to anyone
    # later.
    expires_in_ms: int | None

    @property
    def available(self) -> int:
        """What a transfer out may draw on, before the floor."""
        return self.balance - self.held_out


class AccountRequest(NamedTuple):
    """An account to be opened, with the shape of all values checked."""

    id: str
    currency: str
    floor: int | None
    ceiling: int | None
    # Canonical JSON text: keys sorted, no spaces.
    metadata: str


class AccountLimits(NamedTuple):
    """The limits of an account, in the order of the arrays of `account_limit_many`."""

    id: str
    floor: int | None
    ceiling: int | None
    closed: bool


class Opened(NamedTuple):
    """An account, and whether this call opened it."""

    account: Account
    created: bool


class AccountChange(NamedTuple):
    """What a change sets. A flag says whether a limit is set at all, since null is a valid limit."""

    set_floor: bool = False
    floor: int | None = None
    set_ceiling: bool = False
    ceiling: int | None = None
    closed: bool | None = None
    # JSON text of the entries to set (a null removes one), or None to leave the metadata alone.
    metadata_merge: str | None = None
    metadata_clear: bool = False


class AccountNotFoundError(Exception):
    """There is no account of that id in this ledger."""


class VersionChangedError(Exception):
    """The account has moved on from the version the caller saw."""


class LimitsConflictError(Exception):
    """The floor would be above the ceiling."""


class MetadataFullError(Exception):
    """The account would hold more metadata than it may."""


# The error of each constraint that a caller can violate, by its name; a violation of any other is a bug of ours.
CONSTRAINTS: Mapping[str | None, type[Exception]] = {"accounts_limits_check": LimitsConflictError}


class Accounts:
    """
    The accounts of all ledgers. Reads of one ledger that wait at the same time share one query.

    Args:
        cache: Is told of every version before any caller is.

        rows: Knows the locked accounts, and the requests that wait for them.

        body: Renders an account for its snapshot in the cache.

        tally: Counts the batches.
    """

    def __init__(
        self,
        database: Database,
        cache: Cache,
        rows: RowLocks,
        body: Callable[[Account], bytes],
        tally: BatchTally | None = None,
    ) -> None:
        self._database = InvalidatingDatabase(database, cache)
        self._check = database.check
        self._rows = rows
        self._body = body
        self._lanes: LedgerLanes[str, Account | None] = LedgerLanes(
            lambda ledger_id: partial(_read_batch, database, ledger_id),
            batch_max=READ_BATCH_MAX,
            in_flight_max=READ_IN_FLIGHT_MAX,
            wait_max_seconds=READ_WAIT_MAX_SECONDS,
            tally=tally,
        )

    async def read(self, ledger_id: int, account_id: str) -> Account:
        """
        Return the account as it is committed now.

        Raises:
            AccountNotFoundError: There is no such account.
            QueueFullError, StoreUnavailableError: It could not be read.
        """
        return await self.read_leased(ledger_id, account_id, None)

    async def read_leased(self, ledger_id: int, account_id: str, lease: bytes | None) -> Account:
        """
        Do what `read` does, and fill the account's snapshot if the caller holds the *lease* on it.

        Raises:
            As `read`.
        """
        self._check()

        async def read() -> Account | None:
            return await self._lanes.submit(ledger_id, account_id)

        if lease is None:
            account = await self._database.run(ledger_id, read, _shown)
        else:
            account = await self._database.fill(ledger_id, account_id, lease, read, self._snapshot)
        if account is None:
            raise AccountNotFoundError
        return account

    async def open_many(
        self, ledger_id: int, requests: Sequence[AccountRequest], on_wait: Callable[[], None] | None = None
    ) -> list[Opened]:
        """
        Open the accounts that do not exist yet, and return all of them, in order.

        Args:
            on_wait: Called once if the call has to wait for another transaction that opens one of them.

        Raises:
            QueueFullError, StoreUnavailableError, OutcomeUnknownError: Not all was done; the same call again is safe.
        """
        columns = [list(column) for column in zip(*requests, strict=True)]
        statement = partial(self._database.write, account_shown, "account_create_many", ledger_id, *columns)
        rows = await self._retry_while_locked(ledger_id, [request.id for request in requests], statement, on_wait)
        accounts = {row["id"]: Account(*row.values()) for row in rows}
        fresh = set(accounts)
        others = [request.id for request in requests if request.id not in accounts]
        if others:
            try:
                known = await self._database.read(account_shown, "account_read_many", ledger_id, others)
            except (QueueFullError, StoreUnavailableError) as error:
                if not rows:
                    raise
                raise OutcomeUnknownError("accounts have been opened") from error
            accounts.update((row["id"], Account(*row.values())) for row in known)
        opened = []
        for request in requests:
            opened.append(Opened(accounts[request.id], request.id in fresh))
            fresh.discard(request.id)
        return opened

    async def _retry_while_locked(
        self,
        ledger_id: int,
        ids: Sequence[str],
        statement: Callable[[str], Awaitable[Sequence[asyncpg.Record]]],
        on_wait: Callable[[], None] | None,
    ) -> Sequence[asyncpg.Record]:
        """
        Return the rows of a statement that locks accounts, repeating it while they are locked.

        Args:
            statement: Takes its lock_timeout, in milliseconds.
        """

        async def attempt(waits: bool) -> Sequence[asyncpg.Record]:
            run = partial(statement, WAIT_MS[waits])
            if waits:
                return await self._rows.run_waiting(self._rows.posting_lock_waits, ledger_id, ids, run)
            try:
                return await run()
            except RowLockedError as error:
                raise RowLockedError(ids) from error

        deadline = time.monotonic() + WRITE_DEADLINE_SECONDS
        return await self._rows.retry_while_locked(ledger_id, attempt, deadline, on_wait, needed=ids)

    async def page(self, ledger_id: int, prefixes: Sequence[str], after: str, limit: int) -> list[Account]:
        """
        Return up to *limit* accounts, by id, whose ids begin with one of the *prefixes* and come after the id *after*.

        Args:
            prefixes: In order; no two match the same account.
        """
        found: list[Account] = []
        for prefix in prefixes:
            # Ids are ASCII, so this character, which is above all of theirs, ends the range of the prefix.
            last, missing = prefix + "\x7f", limit - len(found)
            if after < last and missing:
                rows = await self._database.read(account_shown, "account_page", ledger_id, prefix, last, after, missing)
                found += [Account(*row.values()) for row in rows]
        return found

    async def change(
        self,
        ledger_id: int,
        account_id: str,
        change: AccountChange,
        if_versions: Sequence[int] | None,
        on_wait: Callable[[], None] | None = None,
    ) -> Account:
        """
        Change an account and return it.

        Args:
            on_wait: Called once if the change has to wait for a locked account.

        Raises:
            AccountNotFoundError: There is no such account.
            VersionChangedError: Its version is none of *if_versions*.
            LimitsConflictError, MetadataFullError: Its other limits or its metadata do not allow the change.
            QueueFullError, StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: It may have been done.
        """
        arguments = (account_id, if_versions, *change, METADATA_KEYS_MAX)
        statement = partial(self._database.write_once, account_shown, "account_patch", ledger_id, *arguments)
        try:
            rows = await self._retry_while_locked(ledger_id, [account_id], statement, on_wait)
        except ConstraintError as error:
            meaning = CONSTRAINTS.get(error.constraint)
            if meaning is None:
                raise
            raise meaning from error
        if rows:
            return Account(*rows[0].values())
        account = await self.read(ledger_id, account_id)
        if if_versions is not None and account.version not in if_versions:
            raise VersionChangedError
        raise MetadataFullError

    async def limit_many(self, ledger_id: int, limits: Sequence[AccountLimits]) -> None:
        """
        Set the limits of those accounts that are open and have none.

        Raises:
            QueueFullError, StoreUnavailableError, OutcomeUnknownError: As `change`; the same call again is safe.
        """
        columns = [list(column) for column in zip(*limits, strict=True)]
        statement = partial(self._database.write, account_shown, "account_limit_many", ledger_id, *columns)
        await self._retry_while_locked(ledger_id, [account.id for account in limits], statement, None)

    async def drain(self) -> None:
        """Return when all reads have been answered."""
        await self._lanes.drain()

    def _snapshot(self, account: Account | None) -> Snapshot:
        if account is None:
            return Snapshot(0, b"")
        return Snapshot(account.version, self._body(account), account.expires_in_ms)


async def _read_batch(database: Database, ledger_id: int, ids: list[str]) -> list[Account | None]:
    """Read accounts for a lane; each of its callers tells the cache what it shows."""
    rows = await database.read("account_read_many", ledger_id, list(set(ids)))
    accounts = {row["id"]: Account(*row.values()) for row in rows}
    return [accounts.get(account_id) for account_id in ids]


def _shown(account: Account | None) -> Versions:
    return () if account is None else ((account.id, account.version),)
