"""Query parameters of reads, as types that decode and check them."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, field

from server.http.parameters import (
    FREE,
    AccountName,
    Entries,
    EventTypes,
    Instant,
    Kind,
    Order,
    PageSize,
    Prefix,
    Reference,
    Wait,
    WholeNumber,
    read,
)
from server.http.problems import Problem, invalid
from server.ledger.limits import METADATA_KEY_LENGTH_MAX, PAGE_DEFAULT, TIME_MAX, TIME_MIN

Q = TypeVar("Q", bound="Query")

# The most parameters that a query may have.
PARAMETERS_MAX: Final = 32
# A broken escape, which the standard library would take for plain text.
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# The end of a decoder's message names the parameter that is wrong.
_AT: Final = re.compile(r"(?P<detail>.*) - at `\$\.(?P<name>[a-z_]+)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[a-z_]+)`")


_EXAMPLE: Final = "2026-01-01T00:00:00Z"

Limit = Annotated[PageSize, Meta(description="Maximum number of rows in the page.", examples=[50])]
Cursor = Annotated[str, Meta(description="The `next_cursor` of the previous page.", extra_json_schema={"minLength": 1})]
After = Annotated[WholeNumber, Meta(description="Position after which to read.", examples=[0])]
Beginning = Annotated[Instant, Meta(description="Start of the period, inclusive.", examples=[_EXAMPLE])]
End = Annotated[Instant, Meta(description="End of the period, exclusive.", examples=["2099-01-01T00:00:00Z"])]
IdPrefix = Annotated[Prefix, Meta(description="Only accounts whose ids begin with this text.", examples=["customer:"])]
Account = Annotated[
    AccountName, Meta(description="Only events or transfers that name this account.", examples=["customer:42"])
]
By = Annotated[
    Order,
    Meta(
        description="`created` goes by the instants of posting, `effective` by the instants that transfers count for.",
        examples=["effective"],
    ),
]


class Query(msgspec.Struct, kw_only=True, frozen=True):
    """A query without parameters."""


class AccountQuery(Query, kw_only=True, frozen=True):
    """Parameters of a read of an account."""

    min_version: Annotated[
        WholeNumber, Meta(description="Read the database, and require this version or a later one.", examples=[1])
    ] = WholeNumber(0)


class PageQuery(Query, kw_only=True, frozen=True):
    """Parameters of a list without filters."""

    limit: Limit = PageSize(PAGE_DEFAULT)
    cursor: Cursor | None = None


class AccountsQuery(Query, kw_only=True, frozen=True):
    """Parameters of the list of accounts."""

    prefix: IdPrefix = Prefix("")
    limit: Limit = PageSize(PAGE_DEFAULT)
    cursor: Cursor | None = None


class EntriesQuery(PageQuery, kw_only=True, frozen=True):
    """Parameters of the list of an account's entries: from an instant, included, until another, excluded."""

    since: Beginning = field(name="from", default=Instant.combine(TIME_MIN.date(), TIME_MIN.timetz()))
    until: End = field(name="to", default=Instant.combine(TIME_MAX.date(), TIME_MAX.timetz()))


class BalanceQuery(Query, kw_only=True, frozen=True):
    """Parameters of a read of a past balance."""

    at: Annotated[
        Instant, Meta(description="Instant of the balance, inclusive and not in the future.", examples=[_EXAMPLE])
    ]
    by: By = Order("created")


class StatementQuery(Query, kw_only=True, frozen=True):
    """Parameters of a statement: from an instant, included, until another, excluded."""

    since: Beginning | None = field(name="from", default=None)
    until: End | None = field(name="to", default=None)
    by: By = Order("created")


class TrialBalanceQuery(Query, kw_only=True, frozen=True):
    """Parameters of a trial balance."""

    prefix: IdPrefix = Prefix("")
    at: (
        Annotated[
            Instant,
            Meta(description="Instant of the balances, inclusive. Default: now.", examples=[_EXAMPLE]),
        ]
        | None
    ) = None


class EventStreamQuery(Query, kw_only=True, frozen=True):
    """Parameters of the stream of events. An event must match all that are given."""

    after: After = WholeNumber(0)
    types: Annotated[
        EventTypes,
        Meta(
            description="Only events of these types, separated by commas.",
            examples=[["transfer.posted", "hold.created"]],
        ),
    ] = field(name="type", default=EventTypes())
    account: Account | None = None


class EventsQuery(EventStreamQuery, kw_only=True, frozen=True):
    """Parameters of a page of events."""

    limit: Limit = PageSize(PAGE_DEFAULT)
    wait: Annotated[Wait, Meta(description="Seconds to wait for an event if there is none yet.", examples=[0])] = Wait(
        0
    )


class TransfersQuery(Query, kw_only=True, frozen=True):
    """Parameters of the list of transfers. A transfer must match all that are given."""

    reference: (
        Annotated[Reference, Meta(description="Only transfers with this reference.", examples=["order-1001"])] | None
    ) = None
    account: Account | None = None
    kind: Annotated[Kind, Meta(description="Only transfers of this kind.", examples=["transfer"])] | None = None
    since: Beginning = field(name="from", default=Instant.combine(TIME_MIN.date(), TIME_MIN.timetz()))
    until: End = field(name="to", default=Instant.combine(TIME_MAX.date(), TIME_MAX.timetz()))
    metadata: (
        Annotated[
            Entries,
            Meta(
                description="Only transfers with these metadata entries, such as `metadata.channel=web`.",
                examples=[{"metadata.channel": "web"}],
            ),
        ]
        | None
    ) = field(name=f"metadata.{FREE}", default=None)
    limit: Limit = PageSize(PAGE_DEFAULT)
    cursor: Cursor | None = None


def decode_query(text: str, kind: type[Q]) -> Q:
    """
    Decode the parameters of the query *text*.

    Raises:
        Problem: A parameter is unknown, missing, repeated, empty or wrong, or the query is not well-escaped UTF-8
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
        return msgspec.convert(parameters, kind, dec_hook=read)
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
            hint = " Leave out the _ that some clients add to bypass caches."
            known = f"A parameter is unknown. Parameters of this path: {', '.join(names) or 'none'}."
            raise Problem("invalid_request", known + (hint if name == "_" else ""))
        if declared.endswith(FREE) and not (1 <= len(_key(name, declared)) <= METADATA_KEY_LENGTH_MAX):
            raise invalid(declared, f"A metadata key has 1 to {METADATA_KEY_LENGTH_MAX} characters.")
        if name in parameters:
            raise invalid(name, "The parameter is sent more than once.")
        if not value:
            raise invalid(name, "The parameter is empty: give it a value, or leave it out.")
        if "\x00" in name + value:
            raise invalid(name, "The parameter contains a NUL character.")
        parameters[name] = value
    return parameters


def _declared(name: str, names: tuple[str, ...]) -> str | None:
    """Return the declared name, of *names*, that matches a parameter; None if none does."""
    for declared in names:
        if declared.endswith(FREE):
            if name.startswith(declared.removesuffix(FREE)):
                return declared
        elif name == declared:
            return declared
    return None


def _key(name: str, declared: str) -> str:
    """Return the text of *name* at the free place of the declared name."""
    return name[len(declared) - len(FREE) :]


def _gathered(parameters: dict[str, str], names: tuple[str, ...]) -> dict[str, str | dict[str, str]]:
    """Return the parameters by declared name; those that match a free name become one dictionary, by key."""
    gathered: dict[str, str | dict[str, str]] = {}
    families: dict[str, dict[str, str]] = {declared: {} for declared in names if declared.endswith(FREE)}
    for name, value in parameters.items():
        declared = _declared(name, names)
        if declared is not None and declared in families:
            families[declared][_key(name, declared)] = value
        else:
            gathered[name] = value
    return {**gathered, **{declared: found for declared, found in families.items() if found}}


def _malformed(text: str) -> str:
    """Return why a query is not well formed."""
    if _BROKEN_ESCAPE.search(text):
        return "The query is not well formed: write %25 for a percent sign that does not begin an escape."
    pairs = text.split("&")
    if "" in pairs:
        return "The query is not well formed: it has an ampersand with no parameter before or after it."
    if not all("=" in pair for pair in pairs):
        return "The query is not well formed: a parameter is a name, an equals sign and a value."
    return "The query is not well formed: it is not UTF-8, or has too many parameters."
