"""Writes a statement piece by piece, in one of two forms: JSON, or CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from server.http.members import AccountName, CurrencyName, Instant, Minor, Order, Sum, TransferKind, Uuid, Version
from server.http.render import instant
from server.http.reply import JSON
from server.http.route import Text
from server.ledger.statements import Line, Statement

_encode = msgspec.json.Encoder().encode

CSV: Final = b"text/csv; charset=utf-8; header=present"
COLUMNS: Final = (
    *("line", "account", "effective_at", "created_at", "kind", "transfer_id", "counterparty", "reference"),
    *("amount", "balance", "currency", "version"),
)
CSV_TEXT: Final = Text(
    "text/csv",
    f"The same as CSV (RFC 4180), with `Accept: text/csv`. Columns: {', '.join(COLUMNS)}. "
    "The first line is the opening balance, the last line the closing balance.",
)
# First characters that make a spreadsheet take a text for a formula, or continue in the next cell. Such a text gets the
# guard in front, and so does a text that begins with the guard.
_GUARDED: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_GUARD: Final = "'"


class StatementEntry(msgspec.Struct, gc=False):
    """An entry of a statement."""

    transfer_id: Uuid
    kind: TransferKind
    amount: Minor
    # Null if the key does not see that account.
    counterparty: AccountName | None
    balance: Sum
    version: Version
    reference: str | None
    effective_at: Instant
    created_at: Instant


class StatementHead(msgspec.Struct, gc=False):
    """The members of a statement before its entries."""

    account: AccountName
    currency: CurrencyName
    since: Instant | None = msgspec.field(name="from")
    until: Instant | None = msgspec.field(name="to")
    by: Order
    as_of: Instant
    opening_balance: Sum


class StatementBody(StatementHead, gc=False):
    """A statement. The opening balance plus the amounts of all entries is the closing balance."""

    entries: list[StatementEntry]
    closing_balance: Sum


class Form(Protocol):
    """Writes one statement in some form."""

    content_type: bytes

    def begin(self, statement: Statement) -> bytes:
        """Return the text before the entries."""
        ...

    def lines(self, lines: Iterable[Line]) -> bytes:
        """Return the next entries; an empty text if there are none."""
        ...

    def end(self, statement: Statement) -> bytes:
        """Return the text after the entries."""
        ...


class JsonForm:
    """Writes a statement as one JSON object, whose last member is the closing balance."""

    content_type = JSON

    def __init__(self) -> None:
        self._joint = b""

    def begin(self, statement: Statement) -> bytes:
        """Return the text before the entries."""
        since, until, effective = statement.period
        head = StatementHead(
            statement.account,
            statement.currency,
            None if since is None else instant(since),
            None if until is None else instant(until),
            "effective" if effective else "created",
            instant(statement.as_of),
            statement.opening,
        )
        return _encode(head)[:-1] + b',"entries":['

    def lines(self, lines: Iterable[Line]) -> bytes:
        """Return the next entries; an empty text if there are none."""
        rows = b",".join([_encode(_entry(line)) for line in lines])
        if not rows:
            return b""
        joint, self._joint = self._joint, b","
        return joint + rows

    def end(self, statement: Statement) -> bytes:
        """Return the text after the entries."""
        return b'],"closing_balance":%d}' % statement.closing


class CsvForm:
    """Writes a statement by RFC 4180: column names, opening balance, entries, closing balance; lines end with CRLF."""

    content_type = CSV

    def __init__(self) -> None:
        self._account = ""
        self._currency = ""

    def begin(self, statement: Statement) -> bytes:
        """Return the text before the entries."""
        self._account, self._currency = statement.account, statement.currency
        since = statement.period.since
        at = "" if since is None else instant(since)
        return _rows([COLUMNS, self._balance("opening", at, "", statement.opening)])

    def lines(self, lines: Iterable[Line]) -> bytes:
        """Return the next entries; an empty text if there are none."""
        account, currency = self._account, self._currency
        return _rows(
            (
                "entry",
                account,
                instant(line.counts_at),
                instant(line.created_at),
                line.kind,
                line.transfer_id,
                line.counterparty,
                _guarded(line.reference),
                line.amount,
                line.balance,
                currency,
                line.version,
            )
            for line in lines
        )

    def end(self, statement: Statement) -> bytes:
        """Return the text after the entries."""
        until, as_of = statement.period.until, statement.as_of
        at = as_of if until is None else min(until, as_of)
        return _rows([self._balance("closing", instant(at), instant(as_of), statement.closing)])

    def _balance(self, line: str, at: str, as_of: str, balance: int) -> tuple[object, ...]:
        return (line, self._account, at, as_of, "", "", "", "", "", balance, self._currency, "")


def _entry(line: Line) -> StatementEntry:
    return StatementEntry(
        str(line.transfer_id),
        line.kind,
        line.amount,
        line.counterparty,
        line.balance,
        line.version,
        line.reference,
        instant(line.counts_at),
        instant(line.created_at),
    )


def _guarded(text: str | None) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula; it may get the guard in front."""
    if text is None:
        return ""
    return _GUARD + text if text.startswith(_GUARDED) else text


def _rows(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
