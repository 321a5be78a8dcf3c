"""Servers that are ready, accept a request and end the connection without an answer, as a crash looks to a balancer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.listening import stop_accepting

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Sinks:
    """Two such servers; `heard` counts the requests that reached them, by their first line."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.ports: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the probes on a connection, and end it after the first other request has arrived completely."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("GET /readyz"):
                    writer.write(READY)
                    await writer.drain()
                    continue
                _, _, rest = head.lower().partition("content-length: ")
                await reader.readexactly(int(rest.partition("\r\n")[0] or 0))
                self.heard[head.partition(" HTTP/")[0]] += 1
                return
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def sinks() -> AsyncIterator[Sinks]:
    """Run two such servers."""
    both = Sinks()
    servers = [await asyncio.start_server(both.serve, "127.0.0.1", 0) for _ in range(2)]
    both.ports = [server.sockets[0].getsockname()[1] for server in servers]
    try:
        yield both
    finally:
        await stop_accepting(servers)
        for server in servers:
            server.close()
