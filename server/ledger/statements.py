"""Statements: every entry of an account in a period with its running balance, read page by page, of any length."""

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

# Entries read at a time: a few milliseconds of a worker, in which it serves nobody else, and 100 to 200 KB of answer.
PAGE_ENTRIES: Final = 500
# Pages of all statements of a worker that are read at a time: the other connections are for those who ask for less.
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
    # After it, in the order of the statement.
    balance: int

    @property
    def counts_at(self) -> datetime:
        """The instant it counts for."""
        return self.effective_at or self.created_at


class Period(NamedTuple):
    """
    What a statement is asked for.

    Attributes:
        since, until: *since* is included, *until* is not; None is the beginning of the books, and now.

        effective: In the order of the instants that entries count for; otherwise in that of their posting.
    """

    since: datetime | None
    until: datetime | None
    effective: bool


class Statement:
    """
    The statement of an account.

    Args:
        account, currency: Of the account.

        period: As it was asked for.

        as_of: What was posted up to this instant is in it.

        opening: The balance before the period.

        sources: Its entries, in one order or two.

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
        Return the entries that come next. There may be none though it has not ended.

        Raises:
            QueueFullError, StoreUnavailableError: They could not be read.
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
        """Take the rows that are known to come next: none that has still to be read can come between them."""
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

    No connection is kept from one page to the next, and no transaction: what is read never changes, since nothing can
    be added up to the instant as of which a statement is made.

    Args:
        database: Where the entries are.

        cache: Is told of the versions that are shown.

        recent: Waits for postings under way.
    """

    def __init__(self, database: Database, cache: Cache, recent: RecentInstants) -> None:
        self._database = InvalidatingDatabase(database, cache)
        self._recent = recent
        self._pages = asyncio.Semaphore(PAGES_MAX)

    async def open(
        self, ledger_id: int, account: str, period: Period, on_wait: Callable[[], None] | None = None
    ) -> Statement:
        """
        Return the statement of an account, none of whose entries has been read.

        Args:
            on_wait: Called once if it has to wait for a locked account.

        Raises:
            AccountNotFoundError: There is no such account.
            FutureInstantError: The period has not begun, by the database's clock.
            QueueFullError, StoreUnavailableError: It could not be read.
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
        """Return the instant up to which entries are in the statement: no other can be added up to it any more."""
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
    Entries in the order of one index.

    Args:
        read: Runs the statement of a page: takes the place behind which it begins, then *bounds*, then its size.

        place: Behind which the first page begins.

    Attributes:
        back_dated: False leaves those out that count for another instant than that of their posting: they come in
            another order, from another source.

        rows: That have been read, and not been taken.

        ended: Whether no others follow.
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
        """Take the rows."""
        rows, self.rows = self.rows, deque()
        return list(rows)


def _place(row: asyncpg.Record) -> tuple[datetime, datetime, int]:
    """Return where a row stands in the order of what entries count for; the end of that, in the order of posting."""
    created_at: datetime = row["created_at"]
    return row["effective_at"] or created_at, created_at, row["version"]


def _version_shown(account: str, row: asyncpg.Record) -> Versions:
    return ((account, row["version"]),)
