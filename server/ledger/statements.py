"""Statements: all entries of an account in a period with its running balance, of any length, read page by page."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import asyncpg

from server.ledger.accounts import AccountNotFoundError
from server.ledger.history import FutureInstantError
from server.ledger.invalidation import InvalidatingDatabase, Versions
from server.ledger.limits import TIME_MIN
from server.ledger.recent import RecentInstants
from server.store.cache import Cache
from server.store.postgres import Database

# Entries in a page: a few milliseconds in which the worker serves no other request, and 100 to 200 KB of answer.
PAGE_ENTRIES: Final = 500
# Pages of all statements that a worker reads at once: the other connections serve smaller requests.
PAGES_MAX: Final = 2
# The finest step of an instant.
STEP: Final = timedelta(microseconds=1)


class Line(NamedTuple):
    """An entry of a statement."""

    transfer_id: UUID
    kind: str
    # Signed: negative on the source.
    amount: int
    # None where it is hidden.
    counterparty: str | None
    version: int
    reference: str | None
    # None: the instant of posting.
    effective_at: datetime | None
    created_at: datetime
    # The balance after the entry, in the order of the statement.
    balance: int

    @property
    def counts_at(self) -> datetime:
        """The instant that the entry counts for."""
        return self.effective_at or self.created_at


class Period(NamedTuple):
    """
    The period and the order of a statement.

    Attributes:
        since, until: *since* is included, *until* is not. None is the beginning of the books, and now.

        effective: Whether entries are ordered by the instants that they count for; otherwise by their posting.
    """

    since: datetime | None
    until: datetime | None
    effective: bool


class Statement:
    """
    The statement of an account.

    Args:
        account, currency: Id and currency of the account.

        period: The requested period.

        as_of: The statement has what was posted up to this instant.

        opening: The balance before the period.

        sources: Where its entries are read from, in one order or two.

    Attributes:
        closing: The balance after all entries that have been read.
    """

    def __init__(
        self, account: str, currency: str, period: Period, *, as_of: datetime, opening: int, sources: "list[_Source]"
    ) -> None:
        self.account = account
        self.currency = currency
        self.period = period
        self.as_of = as_of
        self.opening = opening
        self.closing = opening
        self._sources = sources

    @property
    def ended(self) -> bool:
        """Whether all entries have been read."""
        return all(source.ended and not source.rows for source in self._sources)

    async def read_on(self) -> list[Line]:
        """
        Return the next entries. There may be none although the statement has not ended.

        Raises:
            QueueFullError, StoreUnavailableError: The entries could not be read.
        """
        for source in self._sources:
            if not source.rows and not source.ended:
                await source.read_page()
        lines = []
        for row in self._next_rows():
            self.closing += row["amount"]
            lines.append(Line._make((*row.values(), self.closing)))
        return lines

    def _next_rows(self) -> list[asyncpg.Record]:
        """Take the rows that are known to come next: no row that has still to be read can come between them."""
        if len(self._sources) == 1:
            return self._sources[0].take_all()
        first, second = self._sources
        taken = []
        while first.rows and second.rows:
            taken.append((first if _place(first.rows[0]) < _place(second.rows[0]) else second).rows.popleft())
        for source, other in ((first, second), (second, first)):
            if other.ended and not other.rows:
                taken += source.take_all()
        return taken


class Statements:
    """
    Makes statements.

    Neither a connection nor a transaction is kept from one page to the next: what is read never changes, since nothing
    can be added up to the instant as of which a statement is made.

    Args:
        database: Holds the entries.

        cache: Is told of the versions that are shown.

        recent: Waits for postings that have not committed yet.
    """

    def __init__(self, database: Database, cache: Cache, recent: RecentInstants) -> None:
        self._database = InvalidatingDatabase(database, cache)
        self._recent = recent
        self._pages = asyncio.Semaphore(PAGES_MAX)

    async def open(
        self, ledger_id: int, account: str, period: Period, on_wait: Callable[[], None] | None = None
    ) -> Statement:
        """
        Return the statement of an account, with no entry read yet.

        Args:
            on_wait: Called once if the call has to wait for a locked account.

        Raises:
            AccountNotFoundError: There is no such account.
            FutureInstantError: The period has not begun, by the database's clock.
            QueueFullError, StoreUnavailableError: The statement could not be read.
        """
        since, until, effective = period
        as_of = await self._as_of(ledger_id, account, period, on_wait)
        if since is not None and since > as_of:
            raise FutureInstantError
        start = TIME_MIN if since is None else since
        before = TIME_MIN if since is None else since - STEP
        shows = partial(_version_shown, account)
        if effective:
            rows = await self._database.read(shows, "account_balance_effective_at", ledger_id, account, before, as_of)
        else:
            rows = await self._database.read(shows, "account_balance_at", ledger_id, account, before)
        if not rows:
            raise AccountNotFoundError
        end = as_of + STEP if until is None else min(until, as_of + STEP)
        read = partial(self._read, shows)
        posted = _Source(partial(read, "statement_page", ledger_id, account), (start, 0), (end,))
        sources = [posted]
        if effective:
            posted.back_dated = False
            back_dated = partial(read, "statement_page_back_dated", ledger_id, account)
            sources.append(_Source(back_dated, (start, TIME_MIN, 0), (end, as_of)))
        currency, opening = rows[0]["currency"], int(rows[0]["balance"] or 0)
        return Statement(account, currency, period, as_of=as_of, opening=opening, sources=sources)

    async def _as_of(
        self, ledger_id: int, account: str, period: Period, on_wait: Callable[[], None] | None
    ) -> datetime:
        """Return the instant up to which the statement has entries: none can be added up to it any more."""
        until = period.until
        if until is not None and not period.effective and self._recent.is_past(until):
            return until
        now = await self._recent.now(ledger_id, account, on_wait)
        if now is None:
            raise AccountNotFoundError
        return now if until is None or period.effective else min(now, until)

    async def _read(
        self, shows: "Callable[[asyncpg.Record], Versions]", name: str, ledger_id: int, *arguments: object
    ) -> list[asyncpg.Record]:
        async with self._pages:
            return list(await self._database.read(shows, name, ledger_id, *arguments))


class _Read(Protocol):
    async def __call__(self, *arguments: object) -> list[asyncpg.Record]: ...


class _Source:
    """
    Reads entries in the order of one index.

    Args:
        read: Runs the statement of a page: takes the place after which it begins, then *bounds*, then its size.

        place: The place after which the first page begins.

    Attributes:
        back_dated: False leaves out entries that count for another instant than that of their posting: they come in
            another order, from another source.

        rows: Rows that have been read, but not taken.

        ended: Whether no other rows follow.
    """

    def __init__(self, read: _Read, place: tuple[object, ...], bounds: tuple[object, ...]) -> None:
        self._read = read
        self._place = place
        self._bounds = bounds
        self.back_dated = True
        self.rows: deque[asyncpg.Record] = deque()
        self.ended = False

    async def read_page(self) -> None:
        """Read one page."""
        page = await self._read(*self._place, *self._bounds, PAGE_ENTRIES)
        self.ended = len(page) < PAGE_ENTRIES
        if page:
            self._place = _place(page[-1])[-len(self._place) :]
        self.rows.extend(row for row in page if self.back_dated or row["effective_at"] is None)

    def take_all(self) -> list[asyncpg.Record]:
        """Remove and return the rows."""
        rows, self.rows = self.rows, deque()
        return list(rows)


def _place(row: asyncpg.Record) -> tuple[datetime, datetime, int]:
    """Return a row's place in the order of the instants that entries count for; its end is that in order of posting."""
    created_at: datetime = row["created_at"]
    return row["effective_at"] or created_at, created_at, row["version"]


def _version_shown(account: str, row: asyncpg.Record) -> Versions:
    return ((account, row["version"]),)
