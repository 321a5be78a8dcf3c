"""Amounts as strings, for callers whose numbers are not exact past 2^53, as those of JavaScript."""

import re
from collections.abc import Iterable
from typing import Final

# Every member of an answer that holds minor units of a currency. Versions, statuses and counts are numbers always.
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
# Characters of a value of Accept that is looked into: browsers send 150, and every range of a long one takes time.
ACCEPT_LENGTH_MAX: Final = 512
# No text can be taken for such a member: a quote inside of one is escaped, so `{` or `,` never stands before it. The
# metadata that callers name hold strings.
_AMOUNT: Final = re.compile(rb'(?<=[{,])"(%b)":(-?[0-9]+)' % "|".join(AMOUNTS).encode())


def as_strings(body: bytes) -> bytes:
    """
    Return JSON, as it is written here, with its amounts as strings and everything else byte for byte.

    Args:
        body: All of an answer, or a part of one that begins and ends with an object.
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
    """Return whether a weight of 0 says that the media range is not wanted."""
    return quality.strip("0.") == "" and quality.startswith("0")
