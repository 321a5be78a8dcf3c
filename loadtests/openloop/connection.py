"""One connection of the generator: a request out, an answer in, as few steps as there can be."""

import asyncio
import re
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)\r\n", re.IGNORECASE)
# Bytes of a head that is no answer of ours.
HEAD_MAX_BYTES = 64 * 1024
# Told instead of a status where there was no answer.
BROKEN = 0


class Connection(asyncio.Protocol):
    """
    A keep-alive connection with one request under way at most.

    Args:
        answered: Called with the connection, the status (`BROKEN` when it ended instead), the body and the seconds
            of Retry-After.

        ended: Called when it has ended; nothing is under way then.
    """

    def __init__(
        self,
        answered: "Callable[[Connection, int, bytes, int], None]",
        ended: "Callable[[Connection], None]",
    ) -> None:
        self.transport: asyncio.Transport | None = None
        # What the owner notes about the request under way.
        self.tag = 0
        self.due = 0.0
        self._answered = answered
        self._ended = ended
        self._received = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, tag: int, due: float) -> None:
        """Send a request; what is noted about it is there when it is answered."""
        assert self.transport is not None, "it is connected"
        self.tag = tag
        self.due = due
        self._busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            self._received = received
            if len(received) > HEAD_MAX_BYTES:
                self.close()
            return
        head = received[: end + 2]
        length = _LENGTH.search(head)
        size = 0 if length is None else int(length[1])
        if len(received) < end + 4 + size:
            self._received = received
            return
        status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") and head[9:12].isdigit() else BROKEN
        if status == BROKEN or not self._busy or len(received) > end + 4 + size:
            # No answer of HTTP/1.1, or one to nothing.
            self.close()
            return
        self._received = b""
        self._busy = False
        closing = _CLOSE.search(head) is not None
        wait = _RETRY_AFTER.search(head) if status >= 400 else None
        if closing:
            self.close()
        self._answered(self, status, received[end + 4 :], 0 if wait is None else int(wait[1]))

    def close(self) -> None:
        """End it."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell what is under way that there is no answer, and the owner that this is over."""
        self.transport = None
        if self._busy:
            self._busy = False
            self._answered(self, BROKEN, b"", 0)
        self._ended(self)
