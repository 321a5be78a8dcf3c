"""A proxy in front of the socket of Postgres that can lose data."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from tests.support.listening import stop_accepting

# Most bytes forwarded at once.
CHUNK_BYTES = 65_536


class Proxy:
    """
    Forwards one unix socket to another.

    Args:
        target: The socket of Postgres.

    Attributes:
        cut_at: When a client sends these bytes, they are forwarded, the server's reply is awaited and dropped, and the
            connection is cut.

        cuts_left: How many more connections may be cut this way.

        refuse: Whether new connections are closed at once.

        refuse_after_cut: Whether new connections are closed at once after a connection was cut.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.cut_at: bytes | None = None
        self.cuts_left = 0
        self.refuse = False
        self.refuse_after_cut = False
        self.cut = 0
        self.accepted = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._delay_seconds = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def hang(self) -> None:
        """Forward nothing from now on in either direction, without closing connections."""
        self._flows.clear()

    def heal(self) -> None:
        """Forward everything again, beginning with what was held back."""
        self.refuse = self.refuse_after_cut = False
        self.cut_at = None
        self._delay_seconds = 0.0
        self._flows.set()

    def delay(self, seconds: float) -> None:
        """Delay every piece by *seconds*."""
        self._delay_seconds = seconds

    def cut_all(self) -> None:
        """Cut all open connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        self.accepted += 1
        if self.refuse:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        doomed = asyncio.Event()
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.target)
            ends.append(server_writer)
            self._writers.update(ends)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._upstream(reader, server_writer, doomed))
                group.create_task(self._downstream(server_reader, writer, doomed))
        except* (OSError, _Ended):
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._writers.difference_update(ends)
            self._tasks.discard(task)

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _upstream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._pass()
            if self.cut_at is not None and self.cuts_left > 0 and self.cut_at in data:
                self.cuts_left -= 1
                doomed.set()
            writer.write(data)
            await writer.drain()
        raise _Ended

    async def _downstream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._pass()
            if doomed.is_set():
                self.cut += 1
                self.refuse = self.refuse or self.refuse_after_cut
                raise _Ended
            writer.write(data)
            await writer.drain()
        raise _Ended

    async def _pass(self) -> None:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)
        await self._flows.wait()


class _Ended(Exception):
    """One side has ended the connection."""


@asynccontextmanager
async def proxied(database_url: str, folder: Path) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy in front of the server of *database_url*, with its socket in *folder*; yield it and its address."""
    address = urlsplit(database_url)
    query = parse_qs(address.query)
    name = f".s.PGSQL.{query['port'][0]}"
    proxy = Proxy(Path(query["host"][0]) / name)
    server = await asyncio.start_unix_server(proxy.serve, folder / name)
    through = urlunsplit(address._replace(query=urlencode({**query, "host": folder}, doseq=True)))
    try:
        yield proxy, through
    finally:
        proxy.heal()
        await stop_accepting([server])
        server.close()
        await proxy.close()
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
