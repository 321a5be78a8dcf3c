"""Reads of committed transfers: by id, by key and in lists, as statements, and as balances of the past."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import asyncpg

from server.ledger.accounts import AccountNotFoundError, Accounts
from server.ledger.invalidation import InvalidatingDatabase, Versions, transfer_shown
from server.ledger.limits import BALANCE_MAX
from server.ledger.recent import RecentInstants
from server.ledger.row_locks import RowLocks
from server.ledger.transfers import Attempt
from server.store.cache import Cache
from server.store.postgres import Database

# Edges of the ranges of cursors.
TIME_MIN = datetime(1, 1, 1, tzinfo=UTC)
TIME_MAX = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
ID_MAX = UUID(int=2**128 - 1)


class Entry(NamedTuple):
    """One line of a statement: what a transfer did to one account."""

    transfer_id: UUID
    kind: str
    # Signed: negative on the source.
    amount: int
    counterparty: str
    # After the transfer.
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
    """Reads of committed transfers. Every method may raise QueueFullError or StoreUnavailableError."""

    def __init__(self, database: Database, cache: Cache, accounts: Accounts, rows: RowLocks) -> None:
        self._database = InvalidatingDatabase(database, cache)
        self._accounts = accounts
        self._recent = RecentInstants(database, rows)

    async def by_id(self, ledger_id: int, transfer_id: UUID) -> Attempt | None:
        """Return the attempt of that id, or None."""
        return next(iter(await self._attempts("transfer_by_id", ledger_id, transfer_id)), None)

    async def by_key(self, ledger_id: int, key: str) -> Attempt | None:
        """Return the attempt an idempotency key is bound to, or None."""
        return next(iter(await self._attempts("transfer_by_key", ledger_id, key)), None)

    async def page(
        self,
        ledger_id: int,
        *,
        reference: str | None,
        account: str | None,
        before: tuple[datetime, UUID] | None,
        limit: int,
    ) -> list[Attempt]:
        """
        Return up to *limit* posted transfers in the order of their instants and ids, newest first.

        A row of a posting under way may still appear before rows that were read: docs/requests.md tells how to read on
        without missing one.

        Args:
            before: Instant and id of the last one already seen.
        """
        at = before or (TIME_MAX, ID_MAX)
        if reference is not None and account is not None:
            name = "transfer_page_by_reference_and_account"
        elif reference is not None:
            name = "transfer_page_by_reference"
        elif account is not None:
            name = "transfer_page_by_account"
        else:
            name = "transfer_page"
        chosen = [value for value in (reference, account) if value is not None]
        return await self._attempts(name, ledger_id, *chosen, *at, limit)

    async def _attempts(self, name: str, ledger_id: int, *arguments: object) -> list[Attempt]:
        rows = await self._database.read(transfer_shown, name, ledger_id, *arguments)
        return [Attempt.from_row(row) for row in rows]

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
        Return up to *limit* lines of the account's statement, newest first. Lines before an instant that has come never
        change.

        Args:
            since, until: Instants; *since* is included, *until* is not.

            before: Instant and version of the last line already seen.

            on_wait: Called once if it has to wait for a locked account.

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
        self, ledger_id: int, account: str, at: datetime, on_wait: Callable[[], None] | None = None
    ) -> PastBalance:
        """
        Return the account's balance at the instant *at*, 0 before its first entry. It never changes.

        Args:
            on_wait: Called once if it has to wait for a locked account.

        Raises:
            AccountNotFoundError: There is no such account.
            FutureInstantError: The instant is still to come, by the database's clock.
        """
        has_come = await self._recent.wait(ledger_id, account, at, on_wait)
        shows = partial(_version_shown, account)
        rows = await self._database.read(shows, "account_balance_at", ledger_id, account, at)
        if not rows:
            raise AccountNotFoundError
        row = rows[0]
        if row["is_future"] or not has_come:
            raise FutureInstantError
        return PastBalance(row["currency"], row["balance"] or 0, row["version"])


def _version_shown(account: str, row: asyncpg.Record) -> Versions:
    return ((account, row["version"]),)
