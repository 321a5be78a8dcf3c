"""A proxy in front of Redis that records what clients send and can spoil the server's answers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.listening import stop_accepting

CHUNK_BYTES = 1_048_576


class RedisProxy:
    """
    Forwards connections to the socket of a server.

    Args:
        target: The server's socket.

    Attributes:
        pieces: What clients sent, one entry for each read.

        spoil: Takes a piece from the server and returns the pieces that the client gets instead; None among them cuts
            the connection after the pieces before it.

        delay_seconds: The delay of every piece from the server.

        refuse: Whether new connections are cut at once.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.pieces: list[bytes] = []
        self.spoil: Callable[[bytes], list[bytes | None]] | None = None
        self.delay_seconds = 0.0
        self.refuse = False
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def say(self, unasked: bytes) -> None:
        """Send every client bytes that it has not asked for."""
        for writer in self._writers:
            writer.write(unasked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        self.accepted += 1
        if self.refuse:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            flows = [
                asyncio.ensure_future(self._upstream(reader, server_writer)),
                asyncio.ensure_future(self._downstream(server_reader, writer)),
            ]
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()
            server_writer.transport.abort()

    async def close(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks)

    async def _upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            self.pieces.append(data)
            writer.write(data)
            await writer.drain()

    async def _downstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            for piece in [data] if self.spoil is None else self.spoil(data):
                if piece is None:
                    await asyncio.sleep(0.001)
                    return
                writer.write(piece)
            await writer.drain()


@asynccontextmanager
async def redis_proxied(
    target: Path, *, port: int = 0, secure: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[RedisProxy, int]]:
    """Put a proxy on a TCP port, with TLS if *secure* is given, in front of a socket; yield it and its port."""
    proxy = RedisProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, ssl=secure, limit=CHUNK_BYTES)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        await stop_accepting([server])
        server.close()
        await proxy.close()
