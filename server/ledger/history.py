"""Reads committed transfers: by id and by key, as statements, and as balances of the past."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import asyncpg

from server.ledger.accounts import AccountNotFoundError, Accounts
from server.ledger.invalidation import InvalidatingDatabase, Versions, transfer_shown
from server.ledger.limits import BALANCE_MAX, TIME_MAX
from server.ledger.recent import RecentInstants
from server.ledger.transfers import Attempt, Progress
from server.store.cache import Cache
from server.store.postgres import Database


class Entry(NamedTuple):
    """One line of a statement: what a transfer did to one account."""

    transfer_id: UUID
    kind: str
    # Signed: negative on the source.
    amount: int
    # None where it is hidden.
    counterparty: str | None
    # The balance after the transfer.
    balance: int
    version: int
    reference: str | None
    created_at: datetime


class PastBalance(NamedTuple):
    """The balance at an instant, and the version of the last entry before it (None: there was none)."""

    currency: str
    balance: int
    version: int | None


class FutureInstantError(Exception):
    """The instant has not come yet, so its balance may still change."""


class History:
    """
    Reads committed transfers. Every method may raise QueueFullError or StoreUnavailableError.

    Args:
        database: Holds the transfers.

        cache: Is told of the versions that are shown.

        accounts: Tells whether an account exists.

        recent: Waits for postings that have not committed yet.
    """

    def __init__(self, database: Database, cache: Cache, accounts: Accounts, recent: RecentInstants) -> None:
        self._database = InvalidatingDatabase(database, cache)
        self._accounts = accounts
        self._recent = recent

    async def by_id(self, ledger_id: int, transfer_id: UUID) -> tuple[Attempt, Progress] | None:
        """Return the attempt with this id and its progress, or None."""
        return await self._attempt("transfer_by_id", ledger_id, transfer_id)

    async def by_key(self, ledger_id: int, key: str) -> tuple[Attempt, Progress] | None:
        """Return the attempt that an idempotency key is bound to and its progress, or None."""
        return await self._attempt("transfer_by_key", ledger_id, key)

    async def children(self, ledger_id: int, transfer_id: UUID, limit: int) -> list[Attempt]:
        """Return up to *limit* captures, voids, expiries and reversals of a transfer, oldest first."""
        rows = await self._database.read(transfer_shown, "transfer_children", ledger_id, transfer_id, limit)
        return [Attempt(*row.values()) for row in rows]

    async def _attempt(self, name: str, ledger_id: int, argument: object) -> tuple[Attempt, Progress] | None:
        rows = await self._database.read(transfer_shown, name, ledger_id, argument)
        if not rows:
            return None
        values = tuple(rows[0].values())
        captured, remaining, taken_back, state = values[len(Attempt._fields) :]
        progress = Progress(captured or 0, remaining or 0, taken_back or 0, state)
        return Attempt(*values[: len(Attempt._fields)]), progress

    async def entries(
        self,
        ledger_id: int,
        account: str,
        *,
        since: datetime,
        until: datetime,
        before: tuple[datetime, int] | None,
        limit: int,
        on_wait: Callable[[], None] | None = None,
    ) -> list[Entry]:
        """
        Return up to *limit* lines of the account's statement, newest first. Lines before an instant that has passed
        never change.

        Args:
            since, until: Instants; *since* is included, *until* is not.

            before: Instant and version of the last line already seen.

            on_wait: Called once if the call has to wait for a locked account.

        Raises:
            AccountNotFoundError: There is no such account.
        """
        await self._recent.wait(ledger_id, account, until, on_wait)
        at = before or (TIME_MAX, BALANCE_MAX)
        shows = partial(_version_shown, account)
        rows = await self._database.read(shows, "entry_page", ledger_id, account, since, until, *at, limit)
        if not rows:
            await self._accounts.read(ledger_id, account)
        return [Entry(*row.values()) for row in rows]

    async def balance_at(
        self,
        ledger_id: int,
        account: str,
        at: datetime,
        *,
        effective: bool = False,
        on_wait: Callable[[], None] | None = None,
    ) -> PastBalance:
        """
        Return the account's balance at the instant *at*, 0 before its first entry.

        Args:
            effective: Whether to count all entries that by now count for that instant or an earlier one, and not only
                those posted by then. Such a balance changes when another one is posted later; otherwise it never does.

            on_wait: Called once if the call has to wait for a locked account.

        Raises:
            AccountNotFoundError: There is no such account.
            FutureInstantError: The instant has not come yet, by the database's clock.
        """
        has_come = await self._recent.wait(ledger_id, account, at, on_wait)
        shows = partial(_version_shown, account)
        if effective:
            statement = partial(self._database.read, shows, "account_balance_effective_at")
            rows = await statement(ledger_id, account, at, TIME_MAX)
        else:
            rows = await self._database.read(shows, "account_balance_at", ledger_id, account, at)
        if not rows:
            raise AccountNotFoundError
        row = rows[0]
        if row["is_future"] or not has_come:
            raise FutureInstantError
        return PastBalance(row["currency"], int(row["balance"] or 0), row["version"])


def _version_shown(account: str, row: asyncpg.Record) -> Versions:
    return ((account, row["version"]),)
