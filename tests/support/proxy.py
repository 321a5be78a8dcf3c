"""A proxy in front of Postgres' socket that can lose data."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from loadtests.chaos import proxy as plain
from tests.support.listening import stop_accepting


class CountingProxy(plain.Proxy):
    """
    Forwards connections to a unix socket.

    Attributes:
        accepted: Number of connections that it has accepted.
    """

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        self.accepted += 1
        await super().serve(reader, writer)

    @asynccontextmanager
    async def behind(self, server: asyncio.AbstractServer) -> AsyncIterator[None]:
        """Serve the connections of a server; all of them end with the body."""
        try:
            yield
        finally:
            self.heal()
            await stop_accepting([server])
            server.close()
            await self.close()


class Proxy(CountingProxy):
    """
    Forwards connections to Postgres.

    Attributes:
        cut_at: Bytes that a client sends before its connection is cut: they are forwarded, and once the server replies
            to them, the reply is dropped and the connection is cut.

        cuts_left: How many connections may still be cut this way.

        refuse_after_cut: Whether new connections are closed at once after a connection was cut.
    """

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self.cuts_left = 0
        self.cut = 0
        self._doomed: set[object] = set()

    def hang(self) -> None:
        """Silently let nothing through from now on, in either direction."""
        self.clog()

    def heal(self) -> None:
        """Let everything through again; what was held back comes first."""
        self.refuse_after_cut = False
        self.cut_at: bytes | None = None
        super().heal()

    def delay(self, seconds: float) -> None:
        """Delay every piece, in both directions."""
        self.clog(requests=True, replies=True, delay_seconds=seconds)

    async def passed(self, data: bytes, client: object, is_reply: bool) -> Sequence[bytes | None]:
        pieces = await super().passed(data, client, is_reply)
        if is_reply and client in self._doomed:
            self._doomed.discard(client)
            self.cut += 1
            self.refuse = self.refuse or self.refuse_after_cut
            return [None]
        if not is_reply and self.cut_at is not None and self.cuts_left > 0 and self.cut_at in data:
            self.cuts_left -= 1
            self._doomed.add(client)
        return pieces


@asynccontextmanager
async def proxied(database_url: str, folder: Path, kind: type[Proxy] = Proxy) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy, with its socket in *folder*, before the server of *database_url*; yield it and its address."""
    address = urlsplit(database_url)
    query = parse_qs(address.query)
    name = f".s.PGSQL.{query['port'][0]}"
    proxy = kind(Path(query["host"][0]) / name)
    through = urlunsplit(address._replace(query=urlencode({**query, "host": folder}, doseq=True)))
    async with proxy.behind(await asyncio.start_unix_server(proxy.serve, folder / name)):
        yield proxy, through
    with contextlib.suppress(FileNotFoundError):
        (folder / name).unlink()
