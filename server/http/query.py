"""Queries of reads: their parameters, as types that decode and check them."""

import re
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import field

from server.http.models import is_account_id
from server.http.problems import Problem, invalid
from server.ledger.history import TIME_MAX, TIME_MIN
from server.ledger.limits import PAGE_DEFAULT, PAGE_MAX, REFERENCE_LENGTH_MAX

Q = TypeVar("Q", bound="Query")

# Parameters of a query, at most.
PARAMETERS_MAX: Final = 32
_WHOLE_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
# The standard library takes such an escape for plain text.
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# The fraction of a second, and its digits past the microsecond.
_FINE_FRACTION: Final = re.compile(r"(\.[0-9]{6})[0-9]+")
# An offset whose plus sign was not escaped: in a query it stands for a space.
_PLUS_LOST: Final = re.compile(r" [0-9]{2}:?[0-9]{2}\Z")
# A parameter that a decoder complains of.
_AT: Final = re.compile(r"(?P<detail>.*) - at `\$\.(?P<name>[a-z_]+)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[a-z_]+)`")


class WholeNumber(int):
    """A whole number, 0 to 2^63-1."""


class PageSize(int):
    """How many rows a page has."""


class Prefix(str):
    """How an account id begins."""

    __slots__ = ()


class Reference(str):
    """A reference of transfers."""

    __slots__ = ()


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


class TransfersQuery(Query, kw_only=True, frozen=True):
    """Parameters of the list of transfers."""

    reference: Reference | None = None
    account: str | None = None
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
    return _convert(_split(text, kind.__struct_encode_fields__), kind)


@cache
def _defaults(kind: type[Q]) -> Q:
    return _convert({}, kind)


def _convert(parameters: dict[str, str], kind: type[Q]) -> Q:
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
        if name not in names:
            hint = " Leave out the _ that some clients add against caches."
            known = f"Parameters of this path: {', '.join(names) or 'none'}."
            raise Problem("invalid_request", known + (hint if name == "_" else ""))
        if name in parameters:
            raise invalid(name, "The parameter is sent more than once.")
        if not value:
            raise invalid(name, "The parameter is empty: give it a value, or leave it out.")
        if "\x00" in value:
            raise invalid(name, "The parameter holds a NUL character.")
        parameters[name] = value
    return parameters


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


def _whole_number(text: str) -> WholeNumber:
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) >= 2**63:
        raise ValueError("A whole number is expected.")
    return WholeNumber(text)


def _page_size(text: str) -> PageSize:
    size = _whole_number(text)
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


def _instant(text: str) -> Instant:
    """Return the instant that *text* names in RFC 3339."""
    try:
        at = msgspec.convert(_FINE_FRACTION.sub(r"\1", text, count=1), datetime)
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None or not TIME_MIN.year < at.year < TIME_MAX.year:
        hint = " In a query a plus sign is a space: write it as %2B." if _PLUS_LOST.search(text) else ""
        raise ValueError("An instant with its offset is expected, as 2026-01-31T12:00:00Z." + hint)
    return Instant.combine(at.date(), at.timetz())


_READERS: Final[dict[type[Any], Callable[[str], Any]]] = {
    WholeNumber: _whole_number,
    PageSize: _page_size,
    Prefix: _prefix,
    Reference: _reference,
    Instant: _instant,
}


def _read(kind: type[Any], text: str) -> Any:
    return _READERS[kind](text)
