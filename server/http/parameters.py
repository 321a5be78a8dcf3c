"""The types of query parameters, how each is read, and its JSON schema for the reference."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from server.events.feed import TYPES
from server.http.instants import read_instant
from server.http.models import is_account_id
from server.http.problems import invalid
from server.ledger.limits import (
    ACCOUNT_ID_PATTERN,
    BALANCE_MAX,
    METADATA_KEY_LENGTH_MAX,
    METADATA_VALUE_LENGTH_MAX,
    PAGE_MAX,
    REFERENCE_LENGTH_MAX,
)
from server.ledger.transfer_lists import KINDS

# The most seconds that a request may wait for events: less than clients and balancers wait for an answer.
WAIT_MAX_SECONDS: Final = 30
# The order of posting, and the order of the instants for which entries count.
ORDERS: Final = ("created", "effective")
# The most metadata entries by which a list may be filtered: each row is compared with all of them.
METADATA_ENTRIES_MAX: Final = 8
# The end of a declared name for which a caller may send several parameters, each with its own key in this place.
FREE: Final = "<key>"
_WHOLE_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
# An offset whose plus sign was not escaped, and so was read as a space.
_PLUS_LOST: Final = re.compile(r" [0-9]{2}:?[0-9]{2}\Z")


class WholeNumber(int):
    """A whole number, 0 to 2^63-1."""


class PageSize(int):
    """The number of rows of a page."""


class Wait(int):
    """Seconds to wait for events."""


class EventTypes(frozenset[str]):
    """Types of events; empty means all."""


class AccountName(str):
    """The id of an account, which need not exist."""

    __slots__ = ()


class Prefix(str):
    """The beginning of an account id."""

    __slots__ = ()


class Reference(str):
    """A reference of transfers."""

    __slots__ = ()


class Order(str):
    """The order of an account's entries: of their posting, or of the instants for which they count."""

    __slots__ = ()


class Kind(str):
    """A kind of transfer."""

    __slots__ = ()


class Entries(dict[str, str]):
    """Entries of metadata. Each is requested by its own parameter, with the key after `metadata.`."""


class Instant(datetime):
    """An instant with its offset, cut off to microseconds."""


def whole_number(text: str) -> WholeNumber:
    """
    Return *text* as a whole number.

    Raises:
        ValueError: *text* is not a whole number, or is too large.
    """
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) >= 2**63:
        raise ValueError("A whole number is expected.")
    return WholeNumber(text)


def _wait(text: str) -> Wait:
    seconds = whole_number(text)
    if seconds > WAIT_MAX_SECONDS:
        raise ValueError(f"A wait is 0 to {WAIT_MAX_SECONDS} seconds.")
    return Wait(seconds)


def _event_types(text: str) -> EventTypes:
    types = EventTypes(text.split(","))
    if not types <= TYPES.keys():
        raise ValueError(f"Types separated by commas are expected, of: {', '.join(TYPES)}.")
    return types


def _page_size(text: str) -> PageSize:
    size = whole_number(text)
    if not 1 <= size <= PAGE_MAX:
        raise ValueError(f"A page has 1 to {PAGE_MAX} rows.")
    return PageSize(size)


def _account(text: str) -> AccountName:
    if not is_account_id(text):
        raise ValueError("This is not a valid account id.")
    return AccountName(text)


def _prefix(text: str) -> Prefix:
    if not is_account_id(text):
        raise ValueError("No valid account id begins with this text.")
    return Prefix(text)


def _reference(text: str) -> Reference:
    if len(text) > REFERENCE_LENGTH_MAX:
        raise ValueError(f"A reference has up to {REFERENCE_LENGTH_MAX} characters.")
    return Reference(text)


def _order(text: str) -> Order:
    if text not in ORDERS:
        raise ValueError(f"The order is {' or '.join(ORDERS)}.")
    return Order(text)


def _kind(text: str) -> Kind:
    if text not in KINDS:
        raise ValueError(f"A kind is one of {', '.join(KINDS)}.")
    return Kind(text)


def _entries(found: dict[str, str]) -> Entries:
    if len(found) > METADATA_ENTRIES_MAX:
        raise invalid(f"metadata.{FREE}", f"A list can be filtered by at most {METADATA_ENTRIES_MAX} metadata entries.")
    for key, value in found.items():
        if len(value) > METADATA_VALUE_LENGTH_MAX:
            raise invalid(f"metadata.{key}", f"A value has up to {METADATA_VALUE_LENGTH_MAX} characters.")
    return Entries(found)


def _instant(text: str) -> Instant:
    """Return *text*, in RFC 3339, as an instant."""
    try:
        at = read_instant(text)
    except ValueError as error:
        hint = " In a query a plus sign is a space: write it as %2B." if _PLUS_LOST.search(text) else ""
        raise ValueError(f"{error}{hint}") from None
    return Instant.combine(at.date(), at.timetz())


class Reading(NamedTuple):
    """The function that reads a type of parameter, and the type's JSON schema."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]


_INTEGER: Final = {"type": "integer", "minimum": 0}
_READINGS: Final[Mapping[type[Any], Reading]] = {
    WholeNumber: Reading(whole_number, {**_INTEGER, "maximum": BALANCE_MAX}),
    PageSize: Reading(_page_size, {"type": "integer", "minimum": 1, "maximum": PAGE_MAX}),
    Wait: Reading(_wait, {**_INTEGER, "maximum": WAIT_MAX_SECONDS}),
    EventTypes: Reading(_event_types, {"type": "array", "minItems": 1, "items": {"type": "string", "enum": [*TYPES]}}),
    AccountName: Reading(_account, {"type": "string", "pattern": ACCOUNT_ID_PATTERN}),
    Prefix: Reading(_prefix, {"type": "string", "pattern": ACCOUNT_ID_PATTERN}),
    Reference: Reading(_reference, {"type": "string", "minLength": 1, "maxLength": REFERENCE_LENGTH_MAX}),
    Kind: Reading(_kind, {"type": "string", "enum": [*KINDS]}),
    Entries: Reading(
        _entries,
        {
            "type": "object",
            "propertyNames": {"pattern": rf"^metadata\.[\s\S]{{1,{METADATA_KEY_LENGTH_MAX}}}$"},
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": METADATA_VALUE_LENGTH_MAX},
            "maxProperties": METADATA_ENTRIES_MAX,
        },
    ),
    Instant: Reading(_instant, {"type": "string", "format": "date-time"}),
    Order: Reading(_order, {"type": "string", "enum": [*ORDERS]}),
}


def read(kind: type[Any], value: Any) -> Any:
    """
    Return a parameter's *value*, as sent, as a value of its type.

    Raises:
        ValueError: The value does not have this type; the message says what is expected.
    """
    return _READINGS[kind].read(value)


def schema(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of parameters of a type."""
    return {**_READINGS[kind].schema}
