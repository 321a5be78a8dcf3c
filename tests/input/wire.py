"""Raw bytes on a socket: requests as broken as a test needs, answers read strictly by RFC 9112."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

# Seconds after which a connection without an answer or an end counts as hanging.
HANG_SECONDS = 45.0


class Response(NamedTuple):
    """A response as it was on the wire; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return orjson.loads(self.body)


class Wire:
    """
    A connection that sends and receives bytes.

    Args:
        reader, writer: The streams of asyncio.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send *data*; ignore that the server has already closed the connection."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def receive(self, *, head: bool = False) -> Response | None:
        """
        Return the next response, or None if the connection ends.

        Args:
            head: Whether the response answers HEAD and so has no body.
        """
        async with asyncio.timeout(HANG_SECONDS):
            try:
                top = await self.reader.readuntil(b"\r\n\r\n")
            except ConnectionError:
                return None
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    raise
                return None
            status, headers = parse_head(top)
            if headers.get("transfer-encoding") == "chunked" and not head:
                raw, body = await self._receive_chunks()
            else:
                length = 0 if head or status in (100, 304) else int(headers["content-length"])
                raw = body = await self.reader.readexactly(length)
        return Response(status, headers, body, top + raw)

    async def _receive_chunks(self) -> tuple[bytes, bytes]:
        """Return a chunked body up to its last chunk, as raw bytes and decoded."""
        raw = b""
        body: list[bytes] = []
        while True:
            line = await self.reader.readuntil(b"\r\n")
            chunk = await self.reader.readexactly(int(line, 16) + 2)
            assert chunk.endswith(b"\r\n")
            raw += line + chunk
            if chunk == b"\r\n":
                return raw, b"".join(body)
            body.append(chunk[:-2])

    async def receive_all(self) -> list[Response]:
        """Return all responses until the server closes the connection."""
        responses = []
        while (response := await self.receive()) is not None:
            responses.append(response)
        return responses

    def finish(self) -> None:
        """Tell the server that nothing more will be sent."""
        with suppress(OSError):
            self.writer.write_eof()


def parse_head(top: bytes) -> tuple[int, Mapping[str, str]]:
    """Return status and headers; fail on a repeated field and on anything else that is not clean HTTP/1.1."""
    lines = top.removesuffix(b"\r\n\r\n").split(b"\r\n")
    version, status, _ = lines[0].split(b" ", 2)
    assert version == b"HTTP/1.1", lines[0]
    headers: dict[str, str] = {}
    for line in lines[1:]:
        assert b"\r" not in line
        assert b"\n" not in line
        name, colon, value = line.partition(b": ")
        assert colon, line
        assert name.lower().decode() not in headers, line
        headers[name.lower().decode()] = value.decode("ascii")
    return int(status), headers


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Wire]:
    """Open a connection to the server at *url*."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(url: str, data: bytes) -> list[Response]:
    """Send *data* on its own connection, end the sending side, and return everything that comes back."""
    async with connect(url) as wire:
        await wire.send(data)
        wire.finish()
        return await wire.receive_all()


def request(
    method: str, target: str, *lines: str | bytes, body: bytes | None = None, token: str | None = None
) -> bytes:
    """Return the bytes of a request: Host, Authorization and Content-Length are added, the rest comes from *lines*."""
    head = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"Host: ledger"]
    if token is not None:
        head.append(f"Authorization: Bearer {token}".encode())
    head += [line if isinstance(line, bytes) else line.encode("latin-1") for line in lines]
    if body is not None:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + (body or b"")


@asynccontextmanager
async def narrow(url: str) -> AsyncIterator[Wire]:
    """Open a connection whose client buffers few bytes."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.setblocking(False)
    host, _, port = url.removeprefix("http://").partition(":")
    await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=link, limit=2**13)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
