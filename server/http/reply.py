"""The response of all routes: head and body joined once and written to the transport as one piece."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp.web import BaseRequest

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
# As most clients announce it.
PLAIN_JSON: Final = JSON.decode()

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    return _STATUS_LINES[status]


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


class Reply:
    """
    An answer.

    Args:
        status: HTTP status.

        body: All of it.

        content_type: Its media type.

        headers: Further header lines, each ended by CRLF. Values must be free of control characters.
    """

    __slots__ = ("body", "content_type", "headers", "keep_alive", "status")

    def __init__(self, status: int, body: bytes, *, content_type: bytes = JSON, headers: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.keep_alive = True

    def encoded(self, fields: bytes = b"", *, head: bool = False) -> bytes:
        """
        Return all that is sent.

        Args:
            fields: Header lines besides those of the reply.

            head: Leave the body out, as HEAD asks for; its length is told all the same.
        """
        start = b"%b%b%b%b" % (_STATUS_LINES[self.status], clock.field(), self.headers, fields)
        close = b"" if self.keep_alive else b"Connection: close\r\n"
        if self.status == HTTPStatus.NOT_MODIFIED:
            return b"%b%b\r\n" % (start, close)
        body = self.body
        return b"%b%bContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            start,
            close,
            self.content_type,
            len(body),
            b"" if head else body,
        )

    async def prepare(self, request: BaseRequest) -> None:
        """Write the answer; wait while the client is slow to take it. Called once by aiohttp's protocol."""
        # HTTP/1.0 connections are closed after one answer: its keep-alive is ambiguous through proxies.
        if not request.keep_alive or request.version < (1, 1):
            self.keep_alive = False
        protocol = request.protocol
        transport = protocol.transport
        if transport is None:
            return
        transport.write(self.encoded(head=request.method == "HEAD"))
        # Whoever takes too long is cut off by the protocol.
        await protocol._drain_helper()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""
