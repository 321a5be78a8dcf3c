"""Checks a file for errors before it is imported: first by itself, then against the ledger."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET

from server.http.models import canonical
from server.ledger.accounts import Account, AccountLimits, AccountRequest
from server.ledger.expiry_requests import expiry_key
from server.ledger.transfers import Attempt, Bound, Outcome, Reused
from server.process.books.lines import Line, LineError, read_lines
from server.process.books.record import Record, encode
from server.store.errors import StoreError
from server.store.postgres import Database

# Most lines that one statement of each kind checks against the ledger.
LINES_MAX: Final = 500
# Kinds of transfers that a closed account still takes.
PASSING: Final = frozenset({"void", "expiry"})

# Called with the progress: bytes of the file and number of records done.
OnProgress = Callable[[int, int], None]


def check_file(file: BinaryIO, on_progress: OnProgress) -> None:
    """
    Check that a file can be read to its end, before any of it is posted.

    Raises:
        LineError: A line is wrong.
    """
    transfers = False
    for done, line in enumerate(read_lines(file), 1):
        if line.record.record == "transfer":
            transfers = True
        elif transfers:
            raise LineError(line.number, "accounts come before transfers")
        on_progress(line.end, done)


async def check_against(database: Database, ledger_id: int | None, file: BinaryIO, on_progress: OnProgress) -> None:
    """
    Check a file against a ledger, before any of it is posted or any account is opened.

    Args:
        ledger_id: None if the ledger does not exist yet.

        file: A file that `check_file` has accepted.

    Raises:
        LineError: A line does not fit with earlier lines or with the ledger.
        StoreError: The ledger could not be read, or there is no room for a temporary file.
    """
    try:
        # A private database in a temporary file, because the file may have more lines than fit in memory.
        with closing(sqlite3.connect("")) as before:
            check = _Check(database, ledger_id, before)
            done = 0
            for lines in chunked(read_lines(file), LINES_MAX):
                await check.accounts([line for line in lines if line.record.record == "account"])
                await check.transfers([line for line in lines if line.record.record == "transfer"])
                done += len(lines)
                on_progress(lines[-1].end, done)
    except sqlite3.Error as error:
        raise StoreError(f"no room for a temporary file of what has been checked: {error}") from error


class _Check:
    """
    Checks lines in order, some at a time.

    Args:
        before: Keeps the accounts and keys of checked lines, to check later lines against them.
    """

    def __init__(self, database: Database, ledger_id: int | None, before: sqlite3.Connection) -> None:
        self._database = database
        self._ledger_id = ledger_id
        self._before = before
        before.execute("CREATE TABLE accounts (id TEXT PRIMARY KEY, currency TEXT, said BLOB) WITHOUT ROWID")
        before.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, said BLOB) WITHOUT ROWID")

    async def accounts(self, lines: Sequence[Line]) -> None:
        """Check lines of accounts."""
        rows = await self._known("account_read_many", [line.record.id for line in lines])
        known = {row["id"]: Account(*row.values()) for row in rows}
        for line in lines:
            opened, limits = opening_of(line.record), limits_of(line.record)
            if opened.id in known:
                check_account(line, known[opened.id])
            said = _digest([*opened, *limits])
            if self._said("SELECT said FROM accounts WHERE id = ?", opened.id) not in (None, said):
                raise LineError(line.number, "id: the account is already in the file, with different columns")
            self._before.execute("INSERT OR IGNORE INTO accounts VALUES (?, ?, ?)", (opened.id, opened.currency, said))

    async def transfers(self, lines: Sequence[Line]) -> None:
        """Check lines of transfers."""
        if not lines:
            return
        [row] = await self._database.read("import_clock")
        now: datetime = row["now"]
        currencies, closed = await self._sides(lines)
        rows = await self._known("import_parents", [line.record.parent for line in lines if line.record.parent])
        parents: dict[str, UUID] = {row["key"]: row["id"] for row in rows}
        bound = await self._bound(lines, parents)
        for line in lines:
            record = line.record
            if record.effective_at is not None and record.effective_at > now:
                raise LineError(line.number, "effective_at: it is in the future")
            attempt = bound.get(_key(record, parents))
            for name in ("source", "destination"):
                side = getattr(record, name)
                currency = currencies.get(side)
                if currency is None:
                    raise LineError(line.number, f"{name}: neither the file nor the ledger has that account")
                if currency != record.currency:
                    raise LineError(line.number, f"currency: the {name} has a different one")
                if attempt is None and side in closed and record.kind not in PASSING:
                    raise LineError(line.number, f"{name}: the account is closed")
            if record.parent is not None and record.parent not in parents and self._key(record.parent) is None:
                raise LineError(line.number, "parent: nothing earlier is posted under that key")
            why = None if attempt is None else fault_of(record, Bound(attempt, replayed=True), parents, now)
            if why is not None:
                raise LineError(line.number, why)
            if record.key is not None:
                self._remember(line, record.key)

    def _remember(self, line: Line, key: str) -> None:
        record = line.record
        said = _digest(
            msgspec.structs.replace(
                record, id=None, created_at=None, kind=record.kind or "transfer", release_rest=releases(record)
            )
        )
        if self._key(key) not in (None, said):
            raise LineError(line.number, "key: it is already in the file, with different columns")
        self._before.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (key, said))

    async def _sides(self, lines: Sequence[Line]) -> tuple[dict[str | None, str], set[str]]:
        """Return the currencies of the accounts that lines name, and which accounts are already closed."""
        named = {side for line in lines for side in (line.record.source, line.record.destination)}
        rows = await self._known("import_sides", list(named))
        found: dict[str | None, str] = {row["id"]: row["currency"] for row in rows}
        for side in named - found.keys():
            currency = self._said("SELECT currency FROM accounts WHERE id = ?", side)
            if currency is not None:
                found[side] = currency
        return found, {row["id"] for row in rows if row["closed"]}

    async def _bound(self, lines: Sequence[Line], parents: dict[str, UUID]) -> dict[str | None, Attempt]:
        """Return the attempts that the keys of lines are bound to in the ledger."""
        keys = {_key(line.record, parents) for line in lines} - {None}
        if self._ledger_id is None or not keys:
            return {}
        rows = await self._database.read("transfer_by_keys", [self._ledger_id] * len(keys), list(keys))
        return {row["idempotency_key"]: Attempt.from_row(row) for row in rows}

    async def _known(self, query: str, names: Sequence[str | None]) -> Sequence[asyncpg.Record]:
        if self._ledger_id is None or not names:
            return []
        return await self._database.read(query, self._ledger_id, names)

    def _key(self, key: str) -> bytes | None:
        said: bytes | None = self._said("SELECT said FROM keys WHERE key = ?", key)
        return said

    def _said(self, statement: str, name: str | None) -> Any:
        row = self._before.execute(statement, (name,)).fetchone()
        return None if row is None else row[0]


def _digest(value: object) -> bytes:
    return hashlib.sha256(encode(value)).digest()


def _key(record: Record, parents: dict[str, UUID]) -> str | None:
    """Return the key under which a record is posted; None for the expiry of a hold that is not in the ledger yet."""
    if record.kind != "expiry":
        return record.key
    parent = parents.get(record.parent or "")
    return None if parent is None else expiry_key(parent)


def chunked(lines: Iterator[Line], size: int) -> Iterable[list[Line]]:
    while chunk := list(islice(lines, size)):
        yield chunk


def limits_of(record: Record) -> AccountLimits:
    assert record.id is not None, "accounts have been checked"
    return AccountLimits(record.id, 0 if record.floor is UNSET else record.floor, record.ceiling, bool(record.closed))


def opening_of(record: Record) -> AccountRequest:
    assert record.id is not None, "accounts have been checked"
    assert record.currency is not None, "accounts have been checked"
    return AccountRequest(record.id, record.currency, None, None, canonical(record.metadata))


def check_account(line: Line, account: Account) -> None:
    """Check that an account that already existed is the same as in the line."""
    if account.currency != line.record.currency:
        raise LineError(line.number, "currency: the account is already in the ledger, in a different one")
    if msgspec.json.decode(account.metadata) != line.record.metadata:
        raise LineError(line.number, "metadata: the account is already in the ledger, with different metadata")
    limits = AccountLimits(account.id, account.floor, account.ceiling, account.closed)
    if limits not in (limits_of(line.record), AccountLimits(account.id, None, None, closed=False)):
        raise LineError(
            line.number, "floor, ceiling, closed: the account is already in the ledger, with different values"
        )


def is_gone(hold: Record, now: datetime) -> bool:
    """Return whether a record is a hold that has expired since it was exported."""
    return hold.expires_at is not None and hold.expires_at <= now


def releases(record: Record) -> bool | None:
    """Return whether a capture releases the rest of its hold, which is the default; None for other kinds."""
    return None if record.kind != "capture" else record.release_rest is not False


def fault_of(record: Record, outcome: Outcome, parents: dict[str, UUID], now: datetime) -> str | None:
    """Return how the outcome differs from what the line asks for, or None if it does not."""
    if not isinstance(outcome, Bound | Reused):
        return "the hold is no longer open"
    attempt = outcome.attempt
    if attempt.refusal is not None:
        where = "" if attempt.refusal_pointer is None else f" ({attempt.refusal_pointer.lstrip('/')})"
        return f"refused: {attempt.refusal}{where}; its key is bound to that refusal"
    differing = [name for name, asked, posted in _compared(record, attempt, parents, now) if asked != posted]
    if not differing:
        return None
    return f"{', '.join(differing)}: what is posted under its key differs"


def _compared(
    record: Record, attempt: Attempt, parents: dict[str, UUID], now: datetime
) -> Iterator["tuple[str, object, object]"]:
    """Yield each column's name, its value in the record and its value in the ledger."""
    yield "kind", record.kind or "transfer", attempt.kind
    for name in ("source", "destination", "amount", "currency", "reference", "description"):
        yield name, getattr(record, name), getattr(attempt, name)
    yield "parent", record.parent and parents.get(record.parent), attempt.parent
    effective_at: datetime = attempt.effective_at or attempt.created_at
    if attempt.kind == "expiry" and attempt.effective_at is None:
        # The service posts an expiry some time after the instant at which it took effect.
        effective_at = record.effective_at or effective_at
    yield "effective_at", record.effective_at or effective_at, effective_at
    if not is_gone(record, now):
        yield "expires_at", record.expires_at or attempt.expires_at, attempt.expires_at
    if record.kind == "capture":
        yield "release_rest", releases(record), attempt.release_rest
    if record.metadata or attempt.metadata != "{}":
        yield "metadata", record.metadata, msgspec.json.decode(attempt.metadata)
