"""Reads instants of callers."""

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from server.ledger.limits import TIME_MAX, TIME_MIN

_YEARS: Final = f"The year in UTC must be {TIME_MIN.year + 1:04} to {TIME_MAX.year - 1}."
_LEAP_SECOND: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:60(?![0-9])")
# The fraction of a second, with digits finer than microseconds.
_FINE_FRACTION: Final = re.compile(r"(\.[0-9]{6})[0-9]+")


def read_instant(text: str) -> datetime:
    """
    Return *text*, in RFC 3339, as an instant in UTC, cut off to microseconds.

    Raises:
        ValueError: *text* is not an instant, has no offset, or is outside the accepted years.
    """
    try:
        at = msgspec.convert(_FINE_FRACTION.sub(r"\1", text, count=1), datetime)
        # Answers show instants in UTC, so the year in UTC must be an accepted one.
        if at.tzinfo is not None:
            if TIME_MIN.year < (at := at.astimezone(UTC)).year < TIME_MAX.year:
                return at
            raise ValueError(_YEARS)
    except OverflowError:
        raise ValueError(_YEARS) from None
    except msgspec.ValidationError:
        if _LEAP_SECOND.match(text):
            raise ValueError("Leap seconds are not supported: write second 59, or the second that follows.") from None
    raise ValueError("An instant with an offset is expected, such as 2026-01-31T12:00:00Z.")
