"""Header lines of answers."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

REPLAYED: Final = b"Idempotent-Replayed: true\r\n"
# The limit of a key: the items of RateLimit-Policy, the whole tokens left, and the seconds until it is full again.
RATE_LIMIT: Final = b'RateLimit-Policy: %b\r\nRateLimit: "default";r=%d;t=%d\r\n'
# For answers that a caller may cache: with amounts as strings the answer is another one.
VARY_ACCEPT: Final = b"Vary: Accept\r\n"
NO_STORE: Final = b"Cache-Control: no-store\r\n"

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def etag(version: int) -> bytes:
    """Return the header lines of an account at *version*: callers may cache it, but must revalidate it."""
    return b'ETag: "%d"\r\nCache-Control: private, no-cache\r\n%b' % (version, VARY_ACCEPT)


def retry_after(seconds: int) -> bytes:
    """Return the header line that lets a caller retry in *seconds*."""
    return b"Retry-After: %d\r\n" % seconds


def header(name: str, value: str) -> bytes:
    """Return any other header line."""
    return b"%b: %b\r\n" % (name.encode(), value.encode())


class Clock:
    """Makes the Date header, once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._field = b""

    def field(self) -> bytes:
        """Return the header line of this second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._field = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._field


clock: Final = Clock()
