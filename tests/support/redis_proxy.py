"""A proxy in front of Redis that records requests and can alter replies."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.proxy import CountingProxy


class RedisProxy(CountingProxy):
    """
    Forwards connections to Redis.

    Attributes:
        pieces: What clients sent, one entry for each read.

        spoil: Takes a piece of a reply and returns what the client gets instead; at None, the connection is cut after
            the pieces before it.

        delay_seconds: How long every piece of a reply is held back.
    """

    CHUNK_BYTES = 1_048_576

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self.pieces: list[bytes] = []
        self.spoil: Callable[[bytes], list[bytes | None]] | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def say(self, unasked: bytes) -> None:
        """Send bytes that answer no request to every client."""
        for writer in self._writers:
            writer.write(unasked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        self._writers.add(writer)
        try:
            await super().serve(reader, writer)
        finally:
            self._writers.discard(writer)

    async def passed(self, data: bytes, client: object, is_reply: bool) -> Sequence[bytes | None]:
        if not is_reply:
            self.pieces.append(data)
            return [data]
        pieces = await super().passed(data, client, is_reply)
        return pieces if self.spoil is None else self.spoil(data)


@asynccontextmanager
async def redis_proxied(
    target: Path, *, port: int = 0, secure: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[RedisProxy, int]]:
    """Put a proxy on a TCP port, with TLS if *secure* is given, before a server's socket; yield it and its port."""
    proxy = RedisProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, ssl=secure, limit=proxy.CHUNK_BYTES)
    async with proxy.behind(server):
        yield proxy, server.sockets[0].getsockname()[1]
