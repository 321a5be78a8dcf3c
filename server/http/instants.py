"""Instants as callers write them."""

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from server.ledger.limits import TIME_MAX, TIME_MIN

# The fraction of a second, and its digits past the microsecond.
_FINE_FRACTION: Final = re.compile(r"(\.[0-9]{6})[0-9]+")


def read_instant(text: str) -> datetime:
    """
    Return the instant that *text* names in RFC 3339, in UTC; what is finer than microseconds is cut off.

    Raises:
        ValueError: It names none, or one without an offset or outside the years that are taken.
    """
    try:
        at = msgspec.convert(_FINE_FRACTION.sub(r"\1", text, count=1), datetime)
        # In UTC, as it is answered, the year must be one that is taken.
        if at.tzinfo is not None and TIME_MIN.year < (at := at.astimezone(UTC)).year < TIME_MAX.year:
            return at
    except (msgspec.ValidationError, OverflowError):
        pass
    raise ValueError("An instant with its offset is expected, as 2026-01-31T12:00:00Z.")
