"""The columns that CSV and JSON Lines share, and how a record is written in each format."""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from server.http.models import canonical
from server.http.render import instant
from server.ledger.export import ExportedAccount, ExportedTransfer

Value = str | int | bool | None


class Columns(NamedTuple):
    """A record: an account or a transfer. Columns that do not apply to it are None."""

    record: str
    # The id of the account, or of the transfer in the ledger it was exported from; an import ignores a transfer's id.
    id: str | None = None
    key: str | None = None
    kind: str | None = None
    parent: str | None = None
    source: str | None = None
    destination: str | None = None
    amount: int | None = None
    currency: str | None = None
    effective_at: str | None = None
    created_at: str | None = None
    expires_at: str | None = None
    release_rest: bool | None = None
    floor: int | None = None
    ceiling: int | None = None
    closed: bool | None = None
    reference: str | None = None
    description: str | None = None
    # Canonical JSON text. It is never empty, so that a line that was cut off cannot look complete.
    metadata: str = "{}"


COLUMNS: Final = Columns._fields
_METADATA: Final = COLUMNS.index("metadata")
# A field of CSV that contains one of these characters is put in quotes.
_QUOTED: Final = frozenset('",\r\n')

_encode = msgspec.json.Encoder().encode


def account_columns(account: ExportedAccount) -> Columns:
    """Return the record of an account."""
    return Columns(
        "account",
        id=account.id,
        currency=account.currency,
        created_at=instant(account.created_at),
        floor=account.floor,
        ceiling=account.ceiling,
        closed=account.closed,
        metadata=_canonical(account.metadata),
    )


def transfer_columns(transfer: ExportedTransfer) -> Columns:
    """Return the record of a transfer."""
    return Columns(
        "transfer",
        id=None if transfer.created_at is None else str(transfer.id),
        key=transfer.key,
        kind=transfer.kind,
        parent=transfer.parent,
        source=transfer.source,
        destination=transfer.destination,
        amount=transfer.amount,
        currency=transfer.currency,
        effective_at=instant(transfer.effective_at),
        created_at=None if transfer.created_at is None else instant(transfer.created_at),
        expires_at=None if transfer.expires_at is None else instant(transfer.expires_at),
        release_rest=transfer.release_rest,
        reference=transfer.reference,
        description=transfer.description,
        metadata=_canonical(transfer.metadata),
    )


def _canonical(metadata: str) -> str:
    """Return metadata with its keys sorted: after a change of an account they are in Postgres's order."""
    return metadata if metadata == "{}" else canonical(msgspec.json.decode(metadata))


def jsonl_line(record: Columns) -> bytes:
    """Return a record as a line of JSON Lines."""
    members: dict[str, Value | msgspec.Raw] = dict(zip(COLUMNS, record, strict=True))
    members["metadata"] = msgspec.Raw(record.metadata.encode())
    return _encode(members) + b"\n"


def csv_line(record: Columns) -> bytes:
    """Return a record as a line of CSV (RFC 4180, except that it ends with a line feed alone)."""
    return (",".join(map(_csv_field, record)) + "\n").encode()


def csv_head() -> bytes:
    """Return the line of CSV that names the columns."""
    return (",".join(COLUMNS) + "\n").encode()


def _csv_field(value: Value) -> str:
    """Return a value as a field of CSV. None becomes an empty field, and an empty text becomes two quotes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value and _QUOTED.isdisjoint(value) and value[0] != " " and value[-1] != " ":
        return value
    return '"' + value.replace('"', '""') + '"'


class Format(NamedTuple):
    """A format of books: the text before all records, and functions that write each kind of record."""

    head: bytes
    account: Callable[[ExportedAccount], bytes]
    transfer: Callable[[ExportedTransfer], bytes]


CSV: Final = Format(csv_head(), lambda a: csv_line(account_columns(a)), lambda t: csv_line(transfer_columns(t)))
JSONL: Final = Format(b"", lambda a: jsonl_line(account_columns(a)), lambda t: jsonl_line(transfer_columns(t)))
