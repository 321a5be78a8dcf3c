"""A relay in front of a server that loses one of its answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.listening import stop_accepting

CHUNK_BYTES = 65_536


class Relay:
    """
    Passes bytes on; the server gets the first transfer, and its caller never hears what became of it.

    Args:
        url: Of the server.

    Attributes:
        lost: Answers that were lost.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until its caller ends it, or until an answer on it is lost."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        from_server, to_server = await asyncio.open_connection(self._host, self._port)
        answers = asyncio.create_task(_copy(from_server, writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                loses = not self.lost and data.startswith(b"POST /v1/transfers ")
                if loses:
                    self.lost += 1
                    answers.cancel()
                to_server.write(data)
                if loses:
                    # The answer is there: so the transfer is posted.
                    await from_server.read(1)
                    return
        finally:
            answers.cancel()
            await asyncio.wait([answers])
            writer.transport.abort()
            to_server.transport.abort()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)


@asynccontextmanager
async def losing(url: str) -> AsyncIterator[tuple[Relay, str]]:
    """Put a relay before the server at *url*; yield it and its address."""
    relay = Relay(url)
    server = await asyncio.start_server(relay.serve, "127.0.0.1")
    try:
        yield relay, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await stop_accepting([server])
        server.close()
        await relay.close()
