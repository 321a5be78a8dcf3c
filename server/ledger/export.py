"""Reads the whole book of a ledger, in one snapshot and in an order in which it can be posted again."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from server.ledger.limits import TIME_MAX, TIME_MIN
from server.store.errors import StoreError
from server.store.sessions import COMMAND_TIMEOUT_SECONDS, SCAN_SETTINGS, Session, session
from server.store.sql import query

# A reader that pauses holds the snapshot open, which keeps Postgres from removing old rows.
EXPORT_SETTINGS = {**SCAN_SETTINGS, "idle_in_transaction_session_timeout": "10min"}


class NoLedgerError(StoreError):
    """There is no ledger of that name."""


class ExportedAccount(NamedTuple):
    """An account, its columns in the order of `export_accounts`."""

    id: str
    currency: str
    floor: int | None
    ceiling: int | None
    closed: bool
    # JSON text: an object of strings.
    metadata: str
    created_at: datetime


class ExportedTransfer(NamedTuple):
    """A transfer that was posted, or an expiry that is due; columns as in `export_transfers` and `export_expiries`."""

    # Its place in the order: the instant of posting, or for an expiry the instant at which it took effect.
    place: datetime
    # For an expiry that is due but not posted, the id of its hold.
    id: UUID
    # None for an expiry, which no caller asked for.
    key: str | None
    kind: str
    # The key of the hold that it ends, or of the transfer that it reverses.
    parent: str | None
    source: str
    destination: str
    amount: int
    currency: str
    effective_at: datetime
    # None for an expiry that is due but not posted.
    created_at: datetime | None
    # Only for an open hold.
    expires_at: datetime | None
    release_rest: bool | None
    reference: str | None
    description: str | None
    metadata: str
    source_version: int | None
    destination_version: int | None


class Book:
    """
    A ledger as it was at one instant.

    Args:
        connection: A session in a transaction that sees that instant.

        since, until: Only transfers posted at *since* or later, and before *until*, are read.

        now: Holds that expire up to this instant are gone.
    """

    def __init__(self, connection: Session, ledger_id: int, since: datetime, until: datetime, now: datetime) -> None:
        self._connection = connection
        self._ledger_id = ledger_id
        self._since = since
        self._until = until
        self._now = now

    async def count(self) -> int:
        """Return about how many records the book has."""
        [row] = await self._connection.fetch(query("export_count"), self._ledger_id, self._since, self._until)
        return int(row["records"])

    async def accounts(self) -> AsyncIterator[ExportedAccount]:
        """Yield all accounts, by id."""
        async for row in self._connection.stream(query("export_accounts"), self._ledger_id):
            yield ExportedAccount(*row.values())

    async def transfers(self) -> AsyncIterator[ExportedTransfer]:
        """Yield everything that was posted, in an order in which it can be posted again."""
        batch: list[ExportedTransfer] = []
        async for transfer in self._by_place():
            if batch and transfer.place != batch[0].place:
                for each in in_order(batch):
                    yield each
                batch.clear()
            batch.append(transfer)
        for each in in_order(batch):
            yield each

    async def _by_place(self) -> AsyncIterator[ExportedTransfer]:
        """Yield transfers and expiries by place, then by id."""
        expiries = self._read("export_expiries")
        expiry = await anext(expiries, None)
        async for transfer in self._read("export_transfers"):
            while expiry is not None and (expiry.place, expiry.id) < (transfer.place, transfer.id):
                yield expiry
                expiry = await anext(expiries, None)
            yield transfer
        while expiry is not None:
            yield expiry
            expiry = await anext(expiries, None)

    async def _read(self, name: str) -> AsyncIterator[ExportedTransfer]:
        async for row in self._connection.stream(query(name), self._ledger_id, self._since, self._until, self._now):
            yield ExportedTransfer(*row.values())


@asynccontextmanager
async def open_book(
    dsn: str, ledger: str, since: datetime | None = None, until: datetime | None = None
) -> AsyncIterator[Book]:
    """
    Lend the book of the ledger called *ledger*, as it is now.

    Raises:
        NoLedgerError: There is no such ledger.
        StoreUnavailableError: Postgres cannot be reached, or the connection is lost.
        DatabaseError: Postgres refuses.
    """
    async with (
        session(dsn, EXPORT_SETTINGS, COMMAND_TIMEOUT_SECONDS) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await connection.fetch(query("ledger_by_name"), ledger)
        if not rows:
            raise NoLedgerError(f"there is no ledger {ledger}")
        [began] = await connection.fetch(query("export_begin"))
        yield Book(connection, rows[0]["id"], since or TIME_MIN, until or TIME_MAX, began["now"])


def in_order(batch: Sequence[ExportedTransfer]) -> Sequence[ExportedTransfer]:
    """
    Return what was posted at one instant in an order in which it can have been posted.

    Args:
        batch: Ordered by id, which is nearly always the right order: ids are made when requests arrive.
    """
    followers, missing = _constraints(batch)
    if all(place < after for place, afters in enumerate(followers) for after in afters):
        return batch
    ready = [place for place, count in enumerate(missing) if not count]
    heapify(ready)
    ordered: list[int] = []
    while ready:
        place = heappop(ready)
        ordered.append(place)
        for after in followers[place]:
            missing[after] -= 1
            if not missing[after]:
                heappush(ready, after)
    # Rows that follow one another in a circle are damaged; they are exported unchanged, so that somebody can examine
    # them.
    ordered += [place for place, count in enumerate(missing) if count]
    return [batch[place] for place in ordered]


def _constraints(batch: Sequence[ExportedTransfer]) -> tuple[list[list[int]], list[int]]:
    """Return for each transfer which ones directly follow it, and how many directly precede it."""
    followers: list[list[int]] = [[] for _ in batch]
    missing = [0] * len(batch)

    def follow(before: int, after: int) -> None:
        followers[before].append(after)
        missing[after] += 1

    places = {transfer.key: place for place, transfer in enumerate(batch)}
    # Versions give the order along an account.
    steps: dict[str, list[tuple[int, int]]] = {}
    for place, transfer in enumerate(batch):
        for account, version in (
            (transfer.source, transfer.source_version),
            (transfer.destination, transfer.destination_version),
        ):
            if version is not None:
                steps.setdefault(account, []).append((version, place))
        if transfer.parent is not None and (parent := places.get(transfer.parent)) is not None:
            follow(parent, place)
    for along in steps.values():
        along.sort()
        for (_, before), (_, after) in pairwise(along):
            follow(before, after)
    return followers, missing
