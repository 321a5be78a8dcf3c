"""Posts a file of books into a ledger, under the keys in the file."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import BinaryIO, Final, NamedTuple
from uuid import UUID

import msgspec

from server.books import Books
from server.http.models import HOLD_SECONDS_MAX, canonical
from server.ledger.expiry_requests import expiry_key
from server.ledger.ids import new_transfer_id
from server.ledger.posting import BATCH_MAX, KeyInUseError
from server.ledger.transfers import Attempt, Bound, Outcome, TransferRequest, Unbound
from server.process.books.checks import (
    OnProgress,
    check_account,
    chunked,
    fault_of,
    is_gone,
    limits_of,
    opening_of,
    releases,
)
from server.process.books.lines import Line, LineError, read_lines
from server.process.books.record import Record, encode
from server.store.coalescer import QueueFullError
from server.store.errors import StoreError

# Most accounts that one statement opens or gives their limits.
ACCOUNTS_MAX: Final = 500
# Stands in for a request's id in refusals.
REQUEST_ID: Final = "import"
# Kinds that name their own sides; the others take them from their parent.
WITH_SIDES: Final = frozenset({"transfer", "hold"})
# Kinds that always release all that remains of their parent.
WITHOUT_AMOUNT: Final = frozenset({"void", "expiry"})


class BusyError(StoreError):
    """The ledger is too busy to go on with the import."""


class Imported(NamedTuple):
    """How many accounts and transfers the file has."""

    accounts: int
    transfers: int
    # How many of them were already in the ledger.
    accounts_known: int
    transfers_known: int


class Import:
    """
    Posts a file into a ledger.

    Lines are posted in order, because a later one may need the money that an earlier one moves or the hold that it
    makes. So only one bulk is posted at a time.

    Args:
        file: A file that was checked against the ledger.

        on_progress: Called with the progress.
    """

    def __init__(self, books: Books, ledger_id: int, file: BinaryIO, on_progress: OnProgress) -> None:
        self._books = books
        self._ledger_id = ledger_id
        self._file = file
        self._on_progress = on_progress
        # The time of the database, as last read.
        self._now = datetime.min.replace(tzinfo=UTC)
        self._known = 0

    async def run(self) -> Imported:
        """
        Post every line that is not in the ledger yet.

        Raises:
            LineError: A line cannot be posted; earlier lines are posted, and the accounts have their limits.
            StoreError: The import could not go on now; another run continues it.
        """
        try:
            accounts, accounts_known = await self._open_accounts()
            await self._look_at_the_clock()
            try:
                transfers = await self._post()
            except LineError:
                # The file must be mended before another run. Until then no account may have looser limits than it says.
                await self._limit_accounts()
                raise
            await self._expire()
            await self._limit_accounts()
        except (QueueFullError, KeyInUseError) as error:
            raise BusyError(
                "the ledger is too busy: run the import again, and it continues where it stopped"
            ) from error
        return Imported(accounts, transfers, accounts_known, self._known)

    async def _open_accounts(self) -> "tuple[int, int]":
        """Open the accounts, new ones without limits; return how many there are, and how many existed before."""
        count = known = 0
        for lines in chunked(self._accounts(), ACCOUNTS_MAX):
            asked = [opening_of(line.record) for line in lines]
            opened = await self._books.accounts.open_many(self._ledger_id, asked)
            for line, account in zip(lines, opened, strict=True):
                if not account.created:
                    check_account(line, account.account)
                    known += 1
            count += len(lines)
            self._on_progress(lines[-1].end, count)
        return count, known

    async def _limit_accounts(self) -> None:
        """Give the accounts their limits; only after posting, because older transfers kept older limits."""
        for lines in chunked(self._accounts(), ACCOUNTS_MAX):
            limits = {line.record.id: limits_of(line.record) for line in lines}
            await self._books.accounts.limit_many(self._ledger_id, list(limits.values()))

    def _accounts(self) -> Iterator[Line]:
        for line in read_lines(self._file):
            if line.record.record != "account":
                return
            yield line

    async def _post(self) -> int:
        bulk: dict[str, Line] = {}
        done = 0
        for line in read_lines(self._file):
            record = line.record
            if record.record == "account":
                continue
            # An expiry has no key in the file. A hold expires only once, so the hold's key identifies its expiry.
            name = record.key or expiry_key(record.parent)
            if len(bulk) == BATCH_MAX or name in bulk:
                await self._post_bulk(list(bulk.values()))
                done += len(bulk)
                self._on_progress(line.end, done)
                bulk.clear()
            bulk[name] = line
        if bulk:
            await self._post_bulk(list(bulk.values()))
        return done + len(bulk)

    async def _look_at_the_clock(self) -> None:
        [row] = await self._books.database.read("import_clock")
        self._now = row["now"]

    async def _expire(self) -> None:
        """Post the expiries of holds that have expired since the export; the service may have posted some already."""
        await self._look_at_the_clock()
        gone = (line.record for line in read_lines(self._file) if is_gone(line.record, self._now))
        while holds := {hold.key: hold for hold in islice(gone, BATCH_MAX)}:
            rows = await self._books.database.read("import_parents", self._ledger_id, list(holds))
            parents = {row["key"]: row["id"] for row in rows}
            requests = [_request(_expiry(hold), parents, self._now) for hold in holds.values()]
            await self._books.posting.post_many(self._ledger_id, requests, atomic=False)

    async def _post_bulk(self, lines: Sequence[Line]) -> None:
        """Post lines whose keys are distinct, and check the outcome of each."""
        await self._look_at_the_clock()
        parents = await self._find_parents(lines)
        requests = []
        for line in lines:
            request = _request(line.record, parents, self._now)
            if request.kind != "expiry":
                # Children of this transfer in the same bulk need its id. If it was posted before, its old id is known.
                parents.setdefault(request.key, request.id)
            requests.append(request)
        outcomes = await self._books.posting.post_many(self._ledger_id, requests, atomic=False)
        faults = []
        for line, request, posted in zip(lines, requests, outcomes, strict=True):
            outcome = await self._expired(request) if isinstance(posted, Unbound) else posted
            fault = fault_of(line.record, outcome, parents, self._now)
            if fault is not None:
                faults.append((line.number, fault))
            self._known += not isinstance(outcome, Bound) or outcome.replayed
        if faults:
            number, text = faults[0]
            more = "" if len(faults) == 1 else f" (and {len(faults) - 1} more lines up to {lines[-1].number})"
            raise LineError(number, text + more)

    async def _expired(self, request: TransferRequest) -> Outcome:
        """Return the outcome of an expiry whose hold is no longer open: the expiry may already be in the ledger."""
        rows = await self._books.database.read("transfer_by_keys", [self._ledger_id], [request.key])
        return Bound(Attempt.from_row(rows[0]), replayed=True) if rows else Unbound()

    async def _find_parents(self, lines: Sequence[Line]) -> dict[str, UUID]:
        """Return the ids, by key, of the parents that lines name and the ledger already has."""
        named = {line.record.parent for line in lines} - {None}
        if not named:
            return {}
        rows = await self._books.database.read("import_parents", self._ledger_id, list(named))
        return {row["key"]: row["id"] for row in rows}


def _request(record: Record, parents: dict[str, UUID], now: datetime) -> TransferRequest:
    kind = record.kind or "transfer"
    if kind == "expiry":
        assert record.parent is not None, "transfers have been checked"
        # The key under which the service would post the expiry, so that it is posted only once.
        key = expiry_key(parents[record.parent])
    else:
        assert record.key is not None, "transfers have been checked"
        key = record.key
    sides = kind in WITH_SIDES
    # A later line of the file, or `_expire`, ends this hold. It must stay open until then, however long that takes.
    ends = kind == "hold" and (record.expires_at is None or is_gone(record, now))
    return TransferRequest(
        key=key,
        fingerprint=_fingerprint(record),
        id=new_transfer_id(),
        source=record.source if sides else None,
        destination=record.destination if sides else None,
        amount=None if kind in WITHOUT_AMOUNT else record.amount,
        currency=record.currency if sides else None,
        reference=record.reference,
        description=record.description,
        metadata=canonical(record.metadata),
        conditions=None,
        request_id=REQUEST_ID,
        effective_at=record.effective_at,
        kind=None if kind == "transfer" else kind,
        expires_at=None if ends else record.expires_at,
        expires_in=HOLD_SECONDS_MAX if ends else None,
        parent_key=record.parent,
        # For an expiry, True posts it although its hold is not due yet.
        release_rest=True if kind == "expiry" else releases(record),
    )


def _expiry(hold: Record) -> Record:
    """Return the record of a hold's expiry as an export made now would write it."""
    return Record(kind="expiry", parent=hold.key, effective_at=hold.expires_at)


def _fingerprint(record: Record) -> bytes:
    """Return the SHA-256 of a record without its id and time of creation."""
    asked = msgspec.structs.replace(record, id=None, created_at=None)
    return hashlib.sha256(b"import\n" + encode(asked)).digest()
