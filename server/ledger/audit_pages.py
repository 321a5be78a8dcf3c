"""
The audit by pages: checks a ledger of any size while it is in use, a little at a time, over many visits.

Each page is judged in one snapshot. Rows after a page cannot make it wrong: rows of transfers and of the feed never
change, an account is compared with its rows where they end, and sums are taken at one instant.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from server.ledger.limits import TIME_MIN
from server.store.sessions import Session
from server.store.sql import query

# Findings of one kind that are reported one by one; the others are only counted.
SAMPLES_MAX: Final = 20
# The lowest and highest ids of transfers and accounts: bounds of a page that has everything.
TRANSFERS: Final = (UUID(int=0), UUID(int=2**128 - 1))
ACCOUNTS: Final = ("", "\x7f")
INDEX: Final = ("", 0, "\x7f", 0)
# Batches of the outbox that are searched for what is not in the feed: some milliseconds. If there are more, the relay
# is behind, and the next round searches again.
WAITING_MAX: Final = 10_000
# Accounts that are followed at once, and the least rows that each of them gets. Few accounts have more rows, and those
# that do are followed further, fewer at a time.
WALKS_MAX: Final = 100
WALK_ROWS_MIN: Final = 10

# Statements over a part of the transfers.
_OF_TRANSFERS: Final = ("audit_rows", "audit_sides", "audit_parents", "audit_progress")


class Finding(NamedTuple):
    """All errors of one kind: their number, and a sentence on each of the first ones."""

    kind: str
    total: int
    details: tuple[str, ...]


class Walk(NamedTuple):
    """How far the rows of an account were followed: the newest row, and what the account held after it."""

    account: str
    at: datetime = TIME_MIN
    version: int = 0
    balance: int = 0
    held_out: int = 0
    held_in: int = 0


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Where the audit of a ledger continues.

    Attributes:
        part: One of `PARTS`.

        until, newest, at: The head of the feed, the newest transfer, and the instant when their part began. The next
            round checks what comes later, or the part would never end while a ledger is busy.

        position: Where the check of the feed has come to; in the index by accounts, within *account*.

        transfer: The first transfer that was not checked.

        account, walks: The last account whose check has begun, and the accounts up to it that have more rows.
    """

    part: str = "feed"
    until: int | None = None
    newest: UUID | None = None
    at: datetime | None = None
    position: int = 0
    transfer: UUID = TRANSFERS[0]
    account: str = ACCOUNTS[0]
    walks: tuple[Walk, ...] = ()


class Page(NamedTuple):
    """Rows that were checked, what is wrong with them, the next place or None, and the number of accounts begun."""

    rows: int
    findings: Mapping[str, Finding]
    next: Place | None
    accounts: int = 0


def merge(found: dict[str, Finding], rows: "Iterable[asyncpg.Record | Mapping[str, Any]]") -> None:
    """Add what a statement has found; several statements may find errors of one kind."""
    by_kind: dict[str, Finding] = {}
    for row in rows:
        earlier = by_kind.get(row["kind"], Finding(row["kind"], 0, ()))
        by_kind[row["kind"]] = Finding(row["kind"], row["total"], (*earlier.details, row["detail"]))
    add(found, by_kind.values())


def add(found: dict[str, Finding], findings: Iterable[Finding]) -> None:
    """Add findings to others."""
    for finding in findings:
        earlier = found.get(finding.kind, Finding(finding.kind, 0, ()))
        details = (*earlier.details, *finding.details)[:SAMPLES_MAX]
        found[finding.kind] = Finding(finding.kind, earlier.total + finding.total, details)


def behind(transfer_id: UUID) -> UUID:
    """Return the next id; the last id is its own next one."""
    return UUID(int=min(transfer_id.int + 1, TRANSFERS[1].int))


class PageAudit:
    """
    Checks pages of one ledger on a session.

    Args:
        session: A session in a transaction with one snapshot.

        ledger_id: The ledger.
    """

    def __init__(self, session: Session, ledger_id: int) -> None:
        self._session = session
        self._ledger_id = ledger_id
        self._found: dict[str, Finding] = {}
        self._accounts = 0

    async def check(self, place: Place, size: int) -> Page:
        """Check the next page, of about *size* rows."""
        rows, following = await PARTS[place.part](self, place, size)
        return Page(rows, self._found, following, self._accounts)

    async def feed(self, place: Place, size: int) -> tuple[int, Place | None]:
        """Check the chain, what it covers, and its head."""
        until = place.until
        if until is None:
            until = await self._head()
        [page] = await self._fetch("feed_range", self._ledger_id, place.position, size)
        if page["upto"] is not None and place.position < until:
            await self._look("audit_feed", place.position, page["upto"])
            await self._look("audit_index", place.position, page["upto"])
            return page["events"], msgspec.structs.replace(place, until=until, position=page["upto"])
        await self._look("audit_head")
        return 0, after(place)

    async def transfers(self, place: Place, size: int) -> tuple[int, Place | None]:
        """Check transfers on their own, against the feed, their accounts and what was posted after them."""
        newest = place.newest
        if newest is None:
            rows = await self._fetch("transfer_newest", self._ledger_id)
            newest = rows[0]["id"] if rows else TRANSFERS[0]
        [page] = await self._fetch("transfer_range", self._ledger_id, place.transfer, size)
        last = TRANSFERS[1] if page["transfers"] < size else page["upto"]
        await self._look("audit_told", place.transfer, last, WAITING_MAX)
        for statement in _OF_TRANSFERS:
            await self._look(statement, place.transfer, last)
        if last >= newest:
            return page["transfers"], after(place)
        return page["transfers"], msgspec.structs.replace(place, newest=newest, transfer=behind(last))

    async def accounts(self, place: Place, size: int) -> tuple[int, Place | None]:
        """Follow accounts along their rows, and compare them with these."""
        walks, account, at = place.walks, place.account, place.at
        if at is None:
            at = (await self._fetch("clock_read"))[0]["clock"]
        if not walks:
            limit = max(1, min(WALKS_MAX, size // WALK_ROWS_MIN))
            ids = [row["id"] for row in await self._fetch("account_range", self._ledger_id, account, limit)]
            upto = ids[-1] if len(ids) == limit else ACCOUNTS[1]
            await self._look("audit_held", account, upto)
            await self._look("audit_accounts", account, upto, WAITING_MAX)
            if not ids:
                return 0, after(place)
            walks, account = tuple(map(Walk, ids)), upto
            self._accounts = len(ids)
        arguments = [list(column) for column in zip(*walks, strict=True)]
        walked = await self._fetch("audit_walk", self._ledger_id, *arguments, max(1, size // len(walks)), at)
        for row in walked:
            told = zip(row["kinds"], row["details"], strict=True)
            add(self._found, (Finding(kind, 1, (detail,)) for kind, detail in told))
        left = tuple(Walk(*(row[name] for name in Walk._fields)) for row in walked if not row["ended"])
        rows = sum(row["rows"] for row in walked) + len(walked) - len(left)
        return rows, msgspec.structs.replace(place, at=at, account=account, walks=left)

    async def index(self, place: Place, size: int) -> tuple[int, Place | None]:
        """Check that the index by accounts leads only to their events."""
        until = await self._head() if place.until is None else place.until
        begin = (place.account, place.position)
        [page] = await self._fetch("index_range", self._ledger_id, *begin, until, size)
        if page["events"]:
            end = (page["account"], page["position"])
            await self._look("audit_indexed", *begin, *end)
            if page["events"] == size:
                return size, msgspec.structs.replace(place, until=until, account=end[0], position=end[1])
        return page["events"], after(place)

    async def sums(self, place: Place, _size: int) -> tuple[int, Place | None]:
        """Sum up all balances."""
        await self._look("audit_currencies")
        return 0, after(place)

    async def _head(self) -> int:
        heads = await self._fetch("feed_positions", [self._ledger_id])
        return heads[0]["position"] if heads else 0

    async def _look(self, statement: str, *arguments: object) -> None:
        merge(self._found, await self._fetch(statement, self._ledger_id, SAMPLES_MAX, *arguments))

    async def _fetch(self, statement: str, *arguments: object) -> "list[asyncpg.Record]":
        return await self._session.fetch(query(statement), *arguments)


# The parts of an audit, in order.
PARTS: Final = {
    "feed": PageAudit.feed,
    "transfers": PageAudit.transfers,
    "accounts": PageAudit.accounts,
    "index": PageAudit.index,
    "sums": PageAudit.sums,
}


def after(place: Place) -> Place | None:
    """Return where the part after that of *place* begins; None if that was the last."""
    parts = list(PARTS)
    following = parts.index(place.part) + 1
    return Place(parts[following]) if following < len(parts) else None
