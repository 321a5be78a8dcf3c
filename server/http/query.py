"""Queries of reads: their parameters, as types that decode and check them."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import field

from server.events.feed import TYPES
from server.http.instants import read_instant
from server.http.models import is_account_id
from server.http.problems import Problem, invalid
from server.ledger.history import TIME_MAX, TIME_MIN
from server.ledger.limits import (
    METADATA_KEY_LENGTH_MAX,
    METADATA_VALUE_LENGTH_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    REFERENCE_LENGTH_MAX,
)
from server.ledger.transfer_lists import KINDS

Q = TypeVar("Q", bound="Query")

# Seconds that a request may wait for events: less than clients and balancers wait for an answer.
WAIT_MAX_SECONDS: Final = 30
# Parameters of a query, at most.
PARAMETERS_MAX: Final = 32
# By the instant of posting, and by the instant that an entry counts for.
ORDERS: Final = ("created", "effective")
# Entries of metadata that a list may be chosen by, at most: each row is held against all of them.
METADATA_ENTRIES_MAX: Final = 8
# Ends the declared name of parameters of which a caller may send several, each with a key of its choice in this place.
_FREE: Final = "<key>"
_WHOLE_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
# The standard library takes such an escape for plain text.
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# An offset whose plus sign was not escaped: in a query it stands for a space.
_PLUS_LOST: Final = re.compile(r" [0-9]{2}:?[0-9]{2}\Z")
# A parameter that a decoder complains of.
_AT: Final = re.compile(r"(?P<detail>.*) - at `\$\.(?P<name>[a-z_]+)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[a-z_]+)`")


class WholeNumber(int):
    """A whole number, 0 to 2^63-1."""


class PageSize(int):
    """How many rows a page has."""


class Wait(int):
    """Seconds to wait for something."""


class EventTypes(frozenset[str]):
    """Types of events; none means all."""


class Prefix(str):
    """How an account id begins."""

    __slots__ = ()


class Reference(str):
    """A reference of transfers."""

    __slots__ = ()


class Order(str):
    """The order of an account's entries: that of their posting, or of the instants that they count for."""

    __slots__ = ()


class Kind(str):
    """A kind of transfers."""

    __slots__ = ()


class Entries(dict[str, str]):
    """Entries of metadata, each asked for by a parameter with its key behind the point."""


class Instant(datetime):
    """An instant with its offset; what is finer than microseconds is cut off."""


class Query(msgspec.Struct, kw_only=True, frozen=True):
    """A query without parameters."""


class AccountQuery(Query, kw_only=True, frozen=True):
    """Parameters of the read of an account."""

    min_version: WholeNumber = WholeNumber(0)


class AccountsQuery(Query, kw_only=True, frozen=True):
    """Parameters of the list of accounts."""

    prefix: Prefix = Prefix("")
    limit: PageSize = PageSize(PAGE_DEFAULT)
    cursor: str | None = None


class EntriesQuery(Query, kw_only=True, frozen=True):
    """Parameters of the list of an account's entries: from an instant on, and until before another."""

    limit: PageSize = PageSize(PAGE_DEFAULT)
    cursor: str | None = None
    since: Instant = field(name="from", default=Instant.combine(TIME_MIN.date(), TIME_MIN.timetz()))
    until: Instant = field(name="to", default=Instant.combine(TIME_MAX.date(), TIME_MAX.timetz()))


class BalanceQuery(Query, kw_only=True, frozen=True):
    """Parameters of the read of a balance of the past."""

    at: Instant
    by: Order = Order("created")


class StatementQuery(Query, kw_only=True, frozen=True):
    """Parameters of a statement: from an instant on, and until before another."""

    since: Instant | None = field(name="from", default=None)
    until: Instant | None = field(name="to", default=None)
    by: Order = Order("created")


class TrialBalanceQuery(Query, kw_only=True, frozen=True):
    """Parameters of a trial balance."""

    prefix: Prefix = Prefix("")
    at: Instant | None = None


class EventStreamQuery(Query, kw_only=True, frozen=True):
    """Parameters of the stream of events: all that are given have to hold."""

    after: WholeNumber = WholeNumber(0)
    types: EventTypes = field(name="type", default=EventTypes())
    account: str | None = None


class EventsQuery(EventStreamQuery, kw_only=True, frozen=True):
    """Parameters of a page of events."""

    limit: PageSize = PageSize(PAGE_DEFAULT)
    wait: Wait = Wait(0)


class TransfersQuery(Query, kw_only=True, frozen=True):
    """Parameters of the list of transfers: all that are given have to hold."""

    reference: Reference | None = None
    account: str | None = None
    kind: Kind | None = None
    since: Instant = field(name="from", default=Instant.combine(TIME_MIN.date(), TIME_MIN.timetz()))
    until: Instant = field(name="to", default=Instant.combine(TIME_MAX.date(), TIME_MAX.timetz()))
    metadata: Entries | None = field(name=f"metadata.{_FREE}", default=None)
    limit: PageSize = PageSize(PAGE_DEFAULT)
    cursor: str | None = None


def decode_query(text: str, kind: type[Q]) -> Q:
    """
    Return the parameters that the query *text* holds.

    Raises:
        Problem: One is not known here, is missing, repeated, empty or wrong, or the query is not well-escaped UTF-8
            without NUL.
    """
    if not text:
        defaults: Q = _defaults(kind)
        return defaults
    names = kind.__struct_encode_fields__
    return _convert(_gathered(_split(text, names), names), kind)


@cache
def _defaults(kind: type[Q]) -> Q:
    return _convert({}, kind)


def _convert(parameters: Mapping[str, object], kind: type[Q]) -> Q:
    try:
        return msgspec.convert(parameters, kind, dec_hook=_read)
    except msgspec.ValidationError as error:
        message = str(error)
        if missing := _MISSING.fullmatch(message):
            raise invalid(missing["name"], "The parameter is required.") from None
        at = _AT.fullmatch(message)
        assert at is not None, "the decoder names the parameter"
        raise invalid(at["name"], at["detail"]) from None


def _split(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """Return the values of a query's parameters, by name."""
    try:
        if _BROKEN_ESCAPE.search(text):
            raise ValueError
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        raise Problem("invalid_request", _malformed(text)) from None
    parameters: dict[str, str] = {}
    for name, value in pairs:
        declared = _declared(name, names)
        if declared is None:
            hint = " Leave out the _ that some clients add against caches."
            known = f"Parameters of this path: {', '.join(names) or 'none'}."
            raise Problem("invalid_request", known + (hint if name == "_" else ""))
        if declared.endswith(_FREE) and not (1 <= len(_key(name, declared)) <= METADATA_KEY_LENGTH_MAX):
            raise invalid(declared, f"A key has 1 to {METADATA_KEY_LENGTH_MAX} characters.")
        if name in parameters:
            raise invalid(name, "The parameter is sent more than once.")
        if not value:
            raise invalid(name, "The parameter is empty: give it a value, or leave it out.")
        if "\x00" in name + value:
            raise invalid(name, "The parameter holds a NUL character.")
        parameters[name] = value
    return parameters


def _declared(name: str, names: tuple[str, ...]) -> str | None:
    """Return the one of the declared *names* that a parameter goes by; None where there is none."""
    for declared in names:
        if declared.endswith(_FREE):
            if name.startswith(declared.removesuffix(_FREE)):
                return declared
        elif name == declared:
            return declared
    return None


def _key(name: str, declared: str) -> str:
    """Return what a caller has put in the free place of a declared name."""
    return name[len(declared) - len(_FREE) :]


def _gathered(parameters: dict[str, str], names: tuple[str, ...]) -> dict[str, str | dict[str, str]]:
    """Return parameters by the names that are declared; those of a free name become one, by key."""
    gathered: dict[str, str | dict[str, str]] = {}
    families: dict[str, dict[str, str]] = {declared: {} for declared in names if declared.endswith(_FREE)}
    for name, value in parameters.items():
        declared = _declared(name, names)
        if declared is not None and declared in families:
            families[declared][_key(name, declared)] = value
        else:
            gathered[name] = value
    return {**gathered, **{declared: found for declared, found in families.items() if found}}


def _malformed(text: str) -> str:
    """Return what is wrong with a query that is not well formed."""
    if _BROKEN_ESCAPE.search(text):
        return "The query is not well formed: write %25 for a percent sign that begins no escape."
    pairs = text.split("&")
    if "" in pairs:
        return "The query is not well formed: it has an ampersand with no parameter behind or before it."
    if not all("=" in pair for pair in pairs):
        return "The query is not well formed: a parameter is a name, an equals sign and a value."
    return "The query is not well formed: it is not UTF-8, or has too many parameters."


def whole_number(text: str) -> WholeNumber:
    """
    Return the whole number that *text* is.

    Raises:
        ValueError: It is none, or is too large.
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
        raise ValueError(f"Types, separated by commas, are {', '.join(TYPES)}.")
    return types


def _page_size(text: str) -> PageSize:
    size = whole_number(text)
    if not 1 <= size <= PAGE_MAX:
        raise ValueError(f"A page has 1 to {PAGE_MAX} rows.")
    return PageSize(size)


def _prefix(text: str) -> Prefix:
    if not is_account_id(text):
        raise ValueError("No account id begins like this.")
    return Prefix(text)


def _reference(text: str) -> Reference:
    if len(text) > REFERENCE_LENGTH_MAX:
        raise ValueError(f"A reference has up to {REFERENCE_LENGTH_MAX} characters.")
    return Reference(text)


def _order(text: str) -> Order:
    if text not in ORDERS:
        raise ValueError(f"One of {' and '.join(ORDERS)} is expected.")
    return Order(text)


def _kind(text: str) -> Kind:
    if text not in KINDS:
        raise ValueError(f"A kind is one of {', '.join(KINDS)}.")
    return Kind(text)


def _entries(found: dict[str, str]) -> Entries:
    if len(found) > METADATA_ENTRIES_MAX:
        raise invalid(f"metadata.{_FREE}", f"A list is chosen by at most {METADATA_ENTRIES_MAX} entries of metadata.")
    for key, value in found.items():
        if len(value) > METADATA_VALUE_LENGTH_MAX:
            raise invalid(f"metadata.{key}", f"A value has up to {METADATA_VALUE_LENGTH_MAX} characters.")
    return Entries(found)


def _instant(text: str) -> Instant:
    """Return the instant that *text* names in RFC 3339."""
    try:
        at = read_instant(text)
    except ValueError as error:
        hint = " In a query a plus sign is a space: write it as %2B." if _PLUS_LOST.search(text) else ""
        raise ValueError(f"{error}{hint}") from None
    return Instant.combine(at.date(), at.timetz())


_READERS: Final[dict[type[Any], Callable[[Any], Any]]] = {
    WholeNumber: whole_number,
    PageSize: _page_size,
    Wait: _wait,
    EventTypes: _event_types,
    Prefix: _prefix,
    Reference: _reference,
    Kind: _kind,
    Entries: _entries,
    Instant: _instant,
    Order: _order,
}


def _read(kind: type[Any], value: Any) -> Any:
    return _READERS[kind](value)
