"""How long a viewer of the live numbers is served, whether it reads them or hangs."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from server.process.console import live
from server.process.console.live import VIEWERS_MAX, Live
from tests.support.waiting import WAIT_SECONDS, until

# Seconds: of the life of a stream, and between two snapshots.
LIFE_SECONDS, BEAT_SECONDS = 0.5, 0.02
OK = b"HTTP/1.1 200 OK"


class Beating:
    """A board that has something new all the time."""

    def __init__(self) -> None:
        self.kept = [b"{}"] * 600

    async def next(self) -> bytes | None:
        """Return the next snapshot."""
        await asyncio.sleep(BEAT_SECONDS)
        return b"{}"


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The address of streams with a short life."""
    monkeypatch.setattr(live, "LIFE_SECONDS", LIFE_SECONDS)
    app = web.Application()
    app.router.add_get("/live", Live(Beating()).stream)  # type: ignore[arg-type]  # all that it asks of a board
    async with TestServer(app) as server:
        yield str(server.make_url("/live"))


async def test_viewers_that_hang_make_room(url: str) -> None:
    """All places are taken by viewers that read nothing; after the life of a stream others have them."""
    host, port = url.removeprefix("http://").removesuffix("/live").split(":")
    hung = []
    for _ in range(VIEWERS_MAX):
        # Its buffer is full at once: no more is taken from the socket.
        reader, writer = opened = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readexactly(len(OK)) == OK
        hung.append(opened)
    async with ClientSession() as session:

        async def has_room() -> bool:
            async with session.get(url) as response:
                return response.status == 200

        await until(has_room, 20)
    for _, writer in hung:
        writer.close()


async def test_a_stream_ends_whole(url: str) -> None:
    """A viewer that reads is told the past and what comes, and then that it is the end; it may come back at once."""
    async with asyncio.timeout(WAIT_SECONDS), ClientSession() as session:
        for _ in range(2):
            async with session.get(url) as response:
                said = await response.text()
            assert (response.status, said.count("event: past")) == (200, 10)
            assert said.endswith("event: now\ndata: {}\n\n")
