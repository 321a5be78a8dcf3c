"""A proxy between a server and one of its databases that loses, holds back and delays what passes through it."""

import asyncio
import contextlib
from pathlib import Path
from typing import Self

# Bytes passed on at once, and held back at most for a direction of a connection.
CHUNK_BYTES = 65_536
# Seconds for the connection to the database.
CONNECT_SECONDS = 2.0


class Proxy:
    """Forwards what comes to a unix socket at one place to another one."""

    _server: asyncio.Server

    def __init__(self, target: Path, place: Path) -> None:
        self._target, self._place = target, place
        self._requests, self._replies = asyncio.Event(), asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self.heal()

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self.clog(requests=True, replies=True)

    def clog(
        self, *, requests: bool = False, replies: bool = False, delay_seconds: float = 0.0, refuse: bool = False
    ) -> None:
        """Hold back, without a word, what is not to flow; delay every piece of the rest; or cut each new connection."""
        self._delay_seconds, self._refuse = delay_seconds, refuse
        for flow, flows in ((self._requests, requests), (self._replies, replies)):
            flow.set() if flows else flow.clear()
        if refuse:
            self.cut()

    def cut(self) -> None:
        """Cut all connections; what was held back is lost."""
        for task in self._connections:
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends, flows = [writer], list[asyncio.Task[None]]()
        try:
            if self._refuse:
                return
            async with asyncio.timeout(CONNECT_SECONDS):
                up_reader, up_writer = await asyncio.open_unix_connection(self._target, limit=CHUNK_BYTES)
            ends.append(up_writer)
            flows.append(asyncio.create_task(self._flow(reader, up_writer, self._requests)))
            flows.append(asyncio.create_task(self._flow(up_reader, writer, self._replies)))
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            # A cut is not an end of this program: nobody waits for this task.
            pass
        finally:
            self._connections.discard(task)
            for flow in flows:
                flow.cancel()
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*flows, return_exceptions=True)

    async def _flow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                await flows.wait()
                writer.write(data)
                await writer.drain()

    async def __aenter__(self) -> Self:
        """Take connections; all of them end with the body."""
        self._server = await asyncio.start_unix_server(self.serve, self._place, limit=CHUNK_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._refuse = True
        self._server.close()
        tasks = list(self._connections)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
