"""Cursors: the position of the last row of a page, opaque to callers, still valid when rows are added."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec

from server.http.problems import invalid

T = TypeVar("T")

# The types that cursors hold, as strict as the database.
Position = Annotated[datetime, msgspec.Meta(tz=True)]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

# The most characters of a cursor: the longest holds an account id.
CURSOR_LENGTH_MAX = 256


def write_cursor(position: object) -> str:
    """Return *position*, which msgspec must be able to encode, as a cursor."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).decode().rstrip("=")


def read_cursor(text: str, kind: type[T]) -> T:
    """
    Return the position in a cursor.

    Raises:
        Problem: *text* is not a cursor of this list.
    """
    if len(text) > CURSOR_LENGTH_MAX:
        raise invalid("cursor", "This is not a cursor of this list.")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        position = msgspec.msgpack.decode(data, type=kind)
        for part in position if isinstance(position, tuple) else ():
            if isinstance(part, datetime):
                # Near the ends of the calendar an offset can leave it, which raises OverflowError here.
                part.astimezone(UTC)
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError):
        raise invalid("cursor", "This is not a cursor of this list.") from None
    return position
