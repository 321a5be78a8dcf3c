"""Answers, each of which leaves as one piece."""

from http import HTTPStatus
from typing import Final

from aiohttp.web import BaseRequest

from server.http.headers import STATUS_LINES, clock

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"


class Reply:
    """
    An answer.

    Args:
        status: HTTP status.

        body: All of it.

        content_type: Its media type.

        headers: Further header lines, each ended by CRLF. Values must be free of control characters.

    Attributes:
        keep_alive: Whether the connection goes on.
    """

    __slots__ = ("body", "content_type", "headers", "keep_alive", "status")

    def __init__(self, status: int, body: bytes, *, content_type: bytes = JSON, headers: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.keep_alive = True

    def encoded(self, request_id: str, fields: bytes = b"", *, head: bool = False) -> bytes:
        """
        Return all that is sent.

        Args:
            request_id: Of the request.

            fields: Header lines that the request has got on its way, besides those of the reply.

            head: Leave the body out, as HEAD asks for; its length is told all the same.
        """
        body = self.body
        if self.status == HTTPStatus.NOT_MODIFIED:
            rest = b""
        else:
            rest = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (self.content_type, len(body))
        return b"%b%b%b%b%bX-Request-Id: %b\r\n%b\r\n%b" % (
            STATUS_LINES[self.status],
            clock.field(),
            self.headers,
            fields,
            b"" if self.keep_alive else b"Connection: close\r\n",
            request_id.encode(),
            rest,
            b"" if head else body,
        )


class AiohttpReply:
    """
    A reply as aiohttp takes it from the handler of a `web.Server`.

    Args:
        reply: What is answered.

        request_id: Of the request.

        fields: As `Reply.encoded` takes them.
    """

    def __init__(self, reply: Reply, request_id: str, fields: bytes) -> None:
        self._reply = reply
        self._request_id = request_id
        self._fields = fields

    @property
    def keep_alive(self) -> bool:
        """Whether the connection goes on; aiohttp asks once the reply is written."""
        return self._reply.keep_alive

    async def prepare(self, request: BaseRequest) -> None:
        """Write the answer; wait while the client is slow to take it. Called once by aiohttp's protocol."""
        # HTTP/1.0 connections are closed after one answer: its keep-alive is ambiguous through proxies.
        if not request.keep_alive or request.version < (1, 1):
            self._reply.keep_alive = False
        protocol = request.protocol
        transport = protocol.transport
        if transport is None:
            return
        transport.write(self._reply.encoded(self._request_id, self._fields, head=request.method == "HEAD"))
        # Whoever takes too long is cut off by the protocol.
        await protocol._drain_helper()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""
