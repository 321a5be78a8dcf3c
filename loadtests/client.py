"""
The client of the ledger's HTTP API.

A `Connection` carries one request at a time in as few steps as possible; the generator drives thousands of them. A
`Client` keeps some of them, never retries, and returns every answer byte for byte, for programs that measure or judge.
All other programs use `tallystick_client`.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Self, cast
from urllib.parse import SplitResult, urlsplit

from loadtests.errors import NotRunError
from loadtests.history.recorder import Heard

# Seconds for one request: above the server's own deadlines, so that the server answers before the client gives up.
REQUEST_SECONDS_MAX = 30.0
# Stands in for a status where there was no answer.
BROKEN = 0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


def address_of(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise NotRunError(f"not an address: {url}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise NotRunError(f"not an address of the form http://HOST:PORT: {url}")
    return parts


class Connection(asyncio.Protocol):
    """
    A keep-alive connection with at most one request under way.

    `answered`: called with the connection, the status (`BROKEN` if the connection ended instead), all bytes of the
    answer, and how many of them are the lines of its head. `ended`: called when the connection has ended; no request is
    under way then.
    """

    def __init__(self, answered: "Answered", ended: "Ended") -> None:
        self.transport: asyncio.Transport | None = None
        # For the owner: notes about the request under way, and the numbers of the API keys that requests use in turn.
        self.tag: Any = None
        self.due = 0.0
        self.keys: Iterator[int] = iter(())
        self._answered = answered
        self._ended = ended
        self._received = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, tag: Any, due: float) -> None:
        assert self.transport is not None, "it is connected"
        self.tag = tag
        self.due = due
        self._busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n") + 2
        if end < 2:
            self._received = received
            return
        length = _LENGTH.search(received, 0, end)
        whole = end + 2 if length is None else end + 2 + int(length[1])
        if len(received) < whole:
            self._received = received
            return
        if not self._busy or len(received) > whole or received[:9] != b"HTTP/1.1 " or not received[9:12].isdigit():
            # The answer is not HTTP/1.1, or answers no request.
            self.close()
            return
        self._received = b""
        self._busy = False
        # Most heads lack the word: a search for it is cheaper than the regular expression.
        if received.find(b"close", 0, end) > 0 and _CLOSE.search(received, 0, end) is not None:
            self.close()
        self._answered(self, int(received[9:12]), received, end)

    def close(self) -> None:
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        if self._busy:
            self._busy = False
            self._answered(self, BROKEN, b"", 0)
        self._ended(self)


Answered = Callable[[Connection, int, bytes, int], None]
Ended = Callable[[Connection], None]


async def connect(address: SplitResult, answered: Answered, ended: Ended = lambda _: None) -> Connection:
    host, tls, loop = address.hostname or "", address.scheme == "https", asyncio.get_running_loop()
    port = address.port or (443 if tls else 80)
    _, connection = await loop.create_connection(lambda: Connection(answered, ended), host, port, ssl=tls or None)
    return connection


class Client:
    """Calls one ledger through at most *connections_max* connections."""

    def __init__(self, url: str, key: str, connections_max: int = 16) -> None:
        self.url = url.rstrip("/")
        self._address = address_of(self.url)
        self._head = f"Host: {self._address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        # Some connections may have ended since they were put back.
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(connections_max)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()
        # Aborted transports call their connections in the next iteration of the loop.
        await asyncio.sleep(0)

    async def ask(
        self, method: str, path: str, body: object = None, key: str = "", seconds_max: float = REQUEST_SECONDS_MAX
    ) -> Heard:
        """Send one request, with a body that is not bytes encoded as JSON; return its answer, whatever it is."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}"
        if key:
            head += f"Idempotency-Key: {key}\r\n"
        if body is None:
            return await self.send(f"{head}\r\n".encode(), seconds_max)
        sent = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        return await self.send(head.encode() + sent, seconds_max)

    async def send(self, request: bytes, seconds_max: float = REQUEST_SECONDS_MAX) -> Heard:
        """Send one request; return its answer, or why there is none."""
        connection = None
        future: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds_max), self._slots:
                while connection is None or connection.transport is None:
                    connection = self._idle.pop() if self._idle else await connect(self._address, _answered)
                connection.send(request, future, 0.0)
                return await future
        except OSError as error:
            return Heard.of(BROKEN, f"{type(error).__name__} {error}")
        finally:
            # The connection may still receive an answer, which nobody waits for.
            if connection is not None and (not future.done() or future.cancelled()):
                connection.close()
            elif connection is not None:
                self._idle.append(connection)


def _answered(connection: Connection, status: int, received: bytes, end: int) -> None:
    future: asyncio.Future[Heard] = connection.tag
    if future.done():
        return
    if status == BROKEN:
        future.set_exception(ConnectionResetError("the connection ended"))
    else:
        lines = (line.partition(":") for line in received[:end].decode("latin-1").split("\r\n")[1:])
        headers = {name.lower(): value.strip() for name, _, value in lines}
        future.set_result(Heard.told(status, received[end + 2 :].decode(errors="backslashreplace"), headers))
