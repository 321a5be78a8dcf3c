"""Readers continue while workers are swapped and killed: nothing is lost and nothing comes twice."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.store.background import stop
from tests.support.client import Client
from tests.support.events import EventSource, pulled, streaming
from tests.support.postgres import administer
from tests.support.service import ServerProcess, make_key
from tests.support.waiting import until

WORKERS = 2
# Readers with streams, and readers that poll.
STREAMS = 6
POLLERS = 2
# Seconds between two transfers, short enough that each reader keeps getting events.
THINK_SECONDS = 0.03
# Seconds within which workers are replaced, on a machine busy with other tests.
REPLACED_SECONDS = 60.0


@pytest.fixture
async def server(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with workers and a background process."""
    variables = {"TALLYSTICK_WORKERS": str(WORKERS), "TALLYSTICK_BACKGROUND": "true"}
    server = ServerProcess(database_url, tmp_path / "server.log", variables, redis_url)
    try:
        await server.start()
        await server.workers()
        yield server
    finally:
        await server.stop()


class Consumer:
    """
    Reads all events from the beginning, however often it is cut off.

    Attributes:
        events: The events received.

        ended: How often its stream ended normally.

        cut: How often its stream was lost.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.events: list[Any] = []
        self.ended = 0
        self.cut = 0

    @property
    def position(self) -> int:
        """The position of the last event received."""
        return self.events[-1]["position"] if self.events else 0

    async def stream(self) -> None:
        """Read streams, each from the end of the one before."""
        last_id = ""
        while True:
            # A new source drops the part of an event that was cut off.
            source = EventSource(last_id)
            try:
                async with streaming(self._client, source=source) as stream:
                    while sent := await stream.next():
                        self.events.append(sent.data)
                self.ended += 1
            except aiohttp.ClientError:
                self.cut += 1
            last_id = source.last_id

    async def poll(self) -> None:
        """Poll for pages, each with a wait."""
        after = 0
        while True:
            with suppress(aiohttp.ClientError):
                answer = await self._client.get(f"/v1/events?after={after}&wait=5&limit=100")
                assert answer.status == 200, answer
                self.events += answer.json["data"]
                after = answer.json["next_after"]


async def write(client: Client, posted: list[str]) -> None:
    """Post one transfer after another, each until its answer is known."""
    for number in itertools.count():
        key = f"w-{number}"
        while True:
            with suppress(aiohttp.ClientError):
                answer = await client.transfer("world", "alice", 1, key)
                assert answer.status == 201, answer
                posted.append(answer.json["id"])
                break
        await asyncio.sleep(THINK_SECONDS)


async def test_nothing_is_lost_and_nothing_doubled(server: ServerProcess) -> None:
    """All readers have the whole feed, event by event, after a swap of all workers and the death of each."""
    token = await make_key(server.database_url, "followed")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(session, server.url, token)
        await client.open("world", floor=None)
        await client.open("alice")
        streams = [Consumer(client) for _ in range(STREAMS)]
        pollers = [Consumer(client) for _ in range(POLLERS)]
        consumers = [*streams, *pollers]
        posted: list[str] = []
        writing = asyncio.create_task(write(client, posted))
        tasks = [asyncio.create_task(one.stream()) for one in streams]
        tasks += [asyncio.create_task(one.poll()) for one in pollers]

        async def after(act: Callable[[], Awaitable[None]]) -> None:
            """Do something, and return once all readers have received later events."""
            await act()
            await server.workers()
            positions = [one.position for one in consumers]
            await until(
                lambda: all(one.position > before for one, before in zip(consumers, positions, strict=True)),
                REPLACED_SECONDS,
            )

        async def swap() -> None:
            before = server.log_text().count("workers were swapped")
            server.kill(signal.SIGHUP)
            await until(lambda: server.log_text().count("workers were swapped") > before, REPLACED_SECONDS)

        async def kill() -> None:
            for pid in await server.workers():
                os.kill(pid, signal.SIGKILL)
                await until(partial(_replaced, server, pid), REPLACED_SECONDS)

        for act in (swap, kill):
            await after(act)
        await stop(writing)
        [row] = await administer(server.database_url, "SELECT count(*) FROM tallystick.transfers")
        # Plus the two opened accounts.
        head = 2 + row["count"]
        await until(lambda: all(one.position == head for one in consumers), REPLACED_SECONDS)
        await stop(*tasks)
        feed = await pulled(client)
    assert [event["position"] for event in feed] == list(range(1, head + 1))
    told = [event["subject"] for event in feed if event["type"] == "tallystick.transfer.posted.v1"]
    assert told[: len(posted)] == posted
    for one in consumers:
        assert one.events == feed
    for one in streams:
        assert one.ended >= 1
        assert one.cut >= 1


async def _replaced(server: ServerProcess, pid: int) -> bool:
    """Return whether another worker has replaced this one."""
    return pid not in await server.workers()
