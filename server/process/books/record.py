"""The type of a record in a file, and the checks that its columns fit together."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from server.http.instants import read_instant
from server.http.models import AccountId, Amount, Balance, Currency, Description, IdempotencyKey, Metadata, Reference


class Instant(datetime):
    """An instant in UTC, cut off to microseconds."""


def read_member(_: type[Any], value: object) -> Instant:
    """
    Return a member that msgspec cannot read by itself, because it rounds to microseconds: an instant.

    Raises:
        TypeError: *value* is not a string.

        ValueError: It is not an instant.
    """
    if not isinstance(value, str):
        raise TypeError("An instant is a string.")
    at = read_instant(value)
    return Instant.combine(at.date(), at.timetz())


def _plain(at: Instant) -> datetime:
    return datetime.combine(at.date(), at.timetz())


# Encodes a record, or members of one, always in the same way.
encode: Final = msgspec.json.Encoder(order="deterministic", enc_hook=_plain).encode


class RecordError(Exception):
    """The columns of a record contradict each other; the message names the column."""


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An account or a transfer, as the columns of a file describe it. Columns that do not apply are empty."""

    record: Literal["account", "transfer"] = "transfer"
    id: str | None = None
    key: IdempotencyKey | None = None
    kind: Literal["transfer", "hold", "capture", "void", "expiry", "reversal"] | None = None
    parent: IdempotencyKey | None = None
    source: AccountId | None = None
    destination: AccountId | None = None
    amount: Amount | None = None
    currency: Currency | None = None
    effective_at: Instant | None = None
    created_at: Instant | None = None
    expires_at: Instant | None = None
    release_rest: bool | None = None
    # Without this column, an account gets the API's default floor.
    floor: Balance | UnsetType | None = UNSET
    ceiling: Balance | None = None
    closed: bool | None = None
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata = {}


# For each kind of record: the columns that it needs, and the others that it may have.
_SIDES: Final = ("source", "destination", "amount", "currency")
_TEXTS: Final = ("id", "effective_at", "created_at", "reference", "description")
_USES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "account": (("id", "currency"), ("created_at", "floor", "ceiling", "closed")),
    "transfer": (("key", *_SIDES), _TEXTS),
    "hold": (("key", *_SIDES), (*_TEXTS, "expires_at")),
    "capture": (("key", "parent", *_SIDES), (*_TEXTS, "release_rest")),
    "void": (("key", "parent", *_SIDES), _TEXTS),
    "expiry": (("parent", *_SIDES), _TEXTS),
    "reversal": (("key", "parent", *_SIDES), _TEXTS),
}
_ALWAYS: Final = frozenset({"record", "kind", "metadata"})
# For each kind of record, the columns that must be empty.
_EMPTY: Final = {
    kind: tuple(set(Record.__struct_fields__) - _ALWAYS - set(needs) - set(may)) for kind, (needs, may) in _USES.items()
}


def check_record(record: Record) -> None:
    """
    Check that the columns of a record fit together.

    Raises:
        RecordError: They do not.
    """
    kind = "account" if record.record == "account" else record.kind or "transfer"
    for name in _USES[kind][0]:
        if getattr(record, name) is None:
            raise RecordError(f"{name}: {_article(kind)} needs one")
    for name in _EMPTY[kind]:
        if getattr(record, name) not in (None, UNSET):
            raise RecordError(f"{name}: {_article(kind)} has none")
    if record.record == "account":
        _check_account(record)
    else:
        _check_transfer(record)


def _check_account(record: Record) -> None:
    if record.kind is not None:
        raise RecordError("kind: an account has none")
    try:
        msgspec.convert(record.id, AccountId)
    except msgspec.ValidationError:
        raise RecordError("id: not the id of an account") from None
    floor = 0 if record.floor is UNSET else record.floor
    if floor is not None and record.ceiling is not None and floor > record.ceiling:
        raise RecordError("floor: it lies above the ceiling")


def _check_transfer(record: Record) -> None:
    if record.source == record.destination:
        raise RecordError("destination: it is the same as the source")


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
