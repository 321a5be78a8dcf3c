"""Answers: most are sent in one piece, those of unknown length in many."""

import logging
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Final

from aiohttp.web import BaseRequest
from aiohttp.web_protocol import RequestHandler

from server.http.headers import STATUS_LINES, clock
from server.store.coalescer import QueueFullError
from server.store.errors import StoreError

# Statuses whose answers have no body, and no header lines about a body.
_BODILESS: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
# Status, date, further lines of the reply and of the request, the end of the connection, the request's id, and the
# lines that say what the body is and where it ends.
_HEAD: Final = b"%b%b%b%b%bX-Request-Id: %b\r\n%b\r\n"
_WHOLE: Final = _HEAD + b"%b"
# Seconds for which an answer in pieces continues after the server begins to stop; then it is cut off.
STOPPING_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class Reply:
    """
    An answer to a request.

    Args:
        status: The HTTP status.

        body: The whole body.

        content_type: The media type of the body.

        headers: Further header lines, each ended by CRLF. Values must not contain control characters.

    Attributes:
        keep_alive: Whether the connection stays open.
    """

    __slots__ = ("body", "content_type", "headers", "keep_alive", "status")

    def __init__(self, status: int, body: bytes, *, content_type: bytes = JSON, headers: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.keep_alive = True

    def change(self, changed: Callable[[bytes], bytes]) -> None:
        """Replace the body, or each piece of it, by the result of *changed*."""
        self.body = changed(self.body)

    def encoded(self, request_id: str, fields: bytes = b"", *, head: bool = False) -> bytes:
        """
        Return the bytes to send.

        Args:
            request_id: The id of the request.

            fields: Header lines of the request, such as those about the limit, added to those of the reply.

            head: Leave the body out, but state its length, as HEAD requires.
        """
        body = self.body
        if not body and self.status in _BODILESS:
            rest = b""
        else:
            rest = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (self.content_type, len(body))
        return _WHOLE % (
            STATUS_LINES[self.status],
            clock.field(),
            self.headers,
            fields,
            b"" if self.keep_alive else b"Connection: close\r\n",
            request_id.encode(),
            rest,
            b"" if head else body,
        )


class StreamedReply(Reply):
    """
    An answer in pieces. Each piece is made when the client has read the earlier ones.

    Args:
        pieces: The body; None if the request is a HEAD.

        ended: Called when the answer ends, whether complete or not.

    Attributes:
        chunked: Whether the pieces are sent as chunks, so that the client sees the end; HTTP/1.0 has no chunks.
    """

    __slots__ = ("_changed", "_ended", "chunked", "pieces")

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None] | None,
        ended: Callable[[], None] | None = None,
        *,
        content_type: bytes,
        headers: bytes = b"",
    ) -> None:
        super().__init__(200, b"", content_type=content_type, headers=headers)
        self.pieces = pieces
        self.chunked = True
        self._changed: Callable[[bytes], bytes] = bytes
        self._ended = [] if ended is None else [ended]

    def change(self, changed: Callable[[bytes], bytes]) -> None:
        """Replace each piece by the result of *changed*."""
        self._changed = changed

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call *call* when the answer ends, whether complete or not."""
        self._ended.append(call)

    def encoded(self, request_id: str, fields: bytes = b"", *, head: bool = False) -> bytes:  # noqa: ARG002 -- of Reply
        """Return the head of the answer; the pieces follow."""
        return _HEAD % (
            STATUS_LINES[self.status],
            clock.field(),
            self.headers,
            fields,
            b"" if self.keep_alive else b"Connection: close\r\n",
            request_id.encode(),
            b"Content-Type: %b\r\n%b" % (self.content_type, b"Transfer-Encoding: chunked\r\n" if self.chunked else b""),
        )

    async def send(self, protocol: RequestHandler, request_id: str) -> None:
        """
        Send the pieces. The protocol cuts off a client that reads too slowly.

        Raises:
            ConnectionError: The client has gone, or a piece could not be made. Then the connection is cut, so that no
                client takes part of the answer for all of it.
        """
        assert self.pieces is not None, "the whole answer is asked for"
        try:
            await self._send(protocol, self.pieces)
        except ConnectionError:
            raise
        except Exception as error:
            if isinstance(error, StoreError | QueueFullError):
                log.warning("the answer to %s is cut off: %s", request_id, type(error).__name__)
            else:
                log.error("the answer to %s is cut off", request_id, exc_info=error)
            if protocol.transport is not None:
                protocol.transport.abort()
            raise ConnectionAbortedError from error
        finally:
            await self.pieces.aclose()
            for call in self._ended:
                call()

    async def _send(self, protocol: RequestHandler, pieces: AsyncGenerator[bytes, None]) -> None:
        stopping: float | None = None
        async for made in pieces:
            transport = protocol.transport
            if transport is None:
                raise ConnectionResetError
            # An empty chunk would end the answer.
            if piece := self._changed(made):
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)
            if protocol._force_close:
                now = protocol._loop.time()
                stopping = stopping or now
                if now - stopping > STOPPING_SECONDS:
                    transport.abort()
                    raise ConnectionAbortedError
            # The next piece is made when the write buffer has room for it.
            await protocol._drain_helper()
        if self.chunked and protocol.transport is not None:
            protocol.transport.write(b"0\r\n\r\n")


class AiohttpReply:
    """
    A reply in the form that aiohttp expects from the handler of a `web.Server`.

    Args:
        reply: The reply to send.

        request_id: The id of the request.

        fields: Header lines, as for `Reply.encoded`.
    """

    def __init__(self, reply: Reply, request_id: str, fields: bytes) -> None:
        self._reply = reply
        self._request_id = request_id
        self._fields = fields

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open; aiohttp reads this once the reply is written."""
        return self._reply.keep_alive

    async def prepare(self, request: BaseRequest) -> None:
        """Write the answer and wait while the client is slow to read it. aiohttp's protocol calls this once."""
        # HTTP/1.0 connections are closed after one answer: its keep-alive is ambiguous through proxies.
        if not request.keep_alive or request.version < (1, 1):
            self._reply.keep_alive = False
        reply = self._reply
        protocol = request.protocol
        if isinstance(reply, StreamedReply):
            reply.chunked = request.version >= (1, 1)
        if protocol.transport is not None:
            protocol.transport.write(reply.encoded(self._request_id, self._fields, head=request.method == "HEAD"))
        if isinstance(reply, StreamedReply) and reply.pieces is not None:
            await reply.send(protocol, self._request_id)
        if protocol.transport is not None:
            # The protocol cuts off a client that reads too slowly.
            await protocol._drain_helper()

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written the whole answer."""
