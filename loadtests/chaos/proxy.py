"""A proxy between a server and one of its databases that loses, holds back and delays the data."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

# Seconds for connecting to the database.
CONNECT_SECONDS = 2.0
# Seconds for forwarded data to leave before its connection is cut.
LEAVE_SECONDS = 0.001


class Proxy:
    """Forwards connections to a unix socket."""

    # Bytes forwarded at once, which is also the most that is held back for each direction of a connection.
    CHUNK_BYTES = 65_536

    def __init__(self, target: Path) -> None:
        self._target = target
        self._requests, self._replies = asyncio.Event(), asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self.heal()

    def heal(self) -> None:
        """Let everything through again; what was held back comes first."""
        self.clog(requests=True, replies=True)

    def clog(
        self, *, requests: bool = False, replies: bool = False, delay_seconds: float = 0.0, refuse: bool = False
    ) -> None:
        """
        Silently hold back directions that are not set; delay every piece of the others; or cut each new connection.
        """
        self.delay_seconds, self.refuse = delay_seconds, refuse
        for flow, flows in ((self._requests, requests), (self._replies, replies)):
            flow.set() if flows else flow.clear()
        if refuse:
            self.cut_all()

    def cut_all(self) -> None:
        """Cut all connections and drop what was held back."""
        for task in self._connections:
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends, flows = [writer], list[asyncio.Task[None]]()
        try:
            if self.refuse:
                return
            async with asyncio.timeout(CONNECT_SECONDS):
                up_reader, up_writer = await asyncio.open_unix_connection(self._target, limit=self.CHUNK_BYTES)
            ends.append(up_writer)
            flows.append(asyncio.create_task(self._flow(reader, up_writer, writer, is_reply=False)))
            flows.append(asyncio.create_task(self._flow(up_reader, writer, writer, is_reply=True)))
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            # A cut must not end this program, and nobody waits for this task.
            pass
        finally:
            self._connections.discard(task)
            for flow in flows:
                flow.cancel()
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*flows, return_exceptions=True)

    async def _flow(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: object, *, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self.CHUNK_BYTES):
                for piece in await self.passed(data, client, is_reply):
                    if piece is None:
                        await asyncio.sleep(LEAVE_SECONDS)
                        return
                    writer.write(piece)
                await writer.drain()

    async def passed(self, data: bytes, _client: object, is_reply: bool) -> Sequence[bytes | None]:
        """
        Return the pieces to forward for a piece of a connection, once it may pass; None among them cuts the connection.
        """
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        await (self._replies if is_reply else self._requests).wait()
        return [data]

    @asynccontextmanager
    async def at(self, place: Path) -> AsyncIterator[None]:
        """Accept connections at a unix socket; all of them end with the body."""
        server = await asyncio.start_unix_server(self.serve, place, limit=self.CHUNK_BYTES)
        try:
            yield
        finally:
            self.refuse = True
            server.close()
            await self.close()

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._connections)
        self.cut_all()
        await asyncio.gather(*tasks, return_exceptions=True)
