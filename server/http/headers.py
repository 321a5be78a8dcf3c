"""Header lines: each of every answer is written here."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

# Header lines that some answers have.
REPLAYED: Final = b"Idempotent-Replayed: true\r\n"
# The limit of a key: its items of RateLimit-Policy, whole tokens left, and seconds until it has all of them again.
RATE_LIMIT: Final = b'RateLimit-Policy: %b\r\nRateLimit: "default";r=%d;t=%d\r\n'
# Of what a caller may keep: with amounts as strings it is another answer.
VARY_ACCEPT: Final = b"Vary: Accept\r\n"
NO_STORE: Final = b"Cache-Control: no-store\r\n"

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def etag(version: int) -> bytes:
    """Return the header lines of an account at *version*: callers may keep it, and have to ask if it still holds."""
    return b'ETag: "%d"\r\nCache-Control: private, no-cache\r\n%b' % (version, VARY_ACCEPT)


def retry_after(seconds: int) -> bytes:
    """Return the header line of an answer to a request that is worth another try in *seconds*."""
    return b"Retry-After: %d\r\n" % seconds


def header(name: str, value: str) -> bytes:
    """Return any other header line."""
    return b"%b: %b\r\n" % (name.encode(), value.encode())


class Clock:
    """The Date header, made once a second."""

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
