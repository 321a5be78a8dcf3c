"""Turns amounts into strings, for callers whose numbers are not exact above 2^53, as in JavaScript."""

import re
from collections.abc import Iterable
from typing import Final

# Every member of an answer that holds minor units of a currency. Versions, statuses and counts are always numbers.
AMOUNTS: Final = (
    "amount",
    "available",
    "balance",
    "captured",
    "ceiling",
    "closing_balance",
    "credit",
    "debit",
    "destination_balance",
    "floor",
    "held_in",
    "held_out",
    "net",
    "opening_balance",
    "remaining",
    "reversed",
    "source_balance",
)
# The most characters of an Accept value that is examined: browsers send 150, and each range of a long value takes time.
ACCEPT_LENGTH_MAX: Final = 512
# No text can be taken for such a member: quotes inside a text are escaped, so `{` or `,` never comes before one. The
# metadata of callers holds only strings.
_AMOUNT: Final = re.compile(rb'(?<=[{,])"(%b)":(-?[0-9]+)' % "|".join(AMOUNTS).encode())


def as_strings(body: bytes) -> bytes:
    """
    Return the JSON of this service with amounts as strings and everything else unchanged.

    Args:
        body: A whole answer, or a part of one that begins and ends with an object.
    """
    return _AMOUNT.sub(rb'"\1":"\2"', body)


def asks_for_strings(accept: Iterable[str]) -> bool:
    """Return whether the values of Accept ask for amounts as strings, as `application/json; amounts=string` does."""
    return any(
        _is_asking(media_range)
        for value in accept
        if "=" in value and len(value) <= ACCEPT_LENGTH_MAX
        for media_range in value.split(",")
    )


def _is_asking(media_range: str) -> bool:
    media, *parameters = (part.strip().lower() for part in media_range.split(";"))
    values = {name.strip(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in parameters)}
    return media == "application/json" and values.get("amounts") == "string" and not _is_refused(values.get("q", "1"))


def _is_refused(quality: str) -> bool:
    """Return whether a weight is 0, which means that the media range is not wanted."""
    return quality.strip("0.") == "" and quality.startswith("0")
