"""Floods of connections: too many of them, silent ones, slow heads, and bodies that do not arrive."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from server.http import admission
from tests.input.wire import Wire, connect, request
from tests.support.client import new_key
from tests.support.hot import BODY, CHUNKED, OTHER_BODY, Hot, answered
from tests.support.waiting import until

LENGTH = f"Content-Length: {len(BODY)}"
FLOOD = 150
# What has arrived of unfinished heads: nothing, an empty line, parts.
STARTS = (b"", b"\r\n", b"GET /v1/accounts/al", b"GET / HTTP/1.1\r\nX: ")
# Much shorter than the other deadlines, and long compared to what a normal client needs.
HEAD_SECONDS = 0.5
# Long enough for a flood to connect on a busy machine.
FLOOD_HEAD_SECONDS = 2.0


@asynccontextmanager
async def many(hot: Hot, count: int) -> AsyncIterator[list[Wire]]:
    """Open this many connections, and wait until the server has closed them afterwards."""
    before = hot.server.open_connections.count
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(hot.url)) for _ in range(count)]
    await until(lambda: hot.server.open_connections.count <= before)


async def closed(wires: list[Wire], *statuses: int) -> None:
    """Return once the server has ended all connections, with exactly the answers *statuses* on each."""
    for wire in wires:
        assert [response.status for response in await wire.receive_all()] == list(statuses)


async def test_one_connection_too_many(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond the limit gets 503 and is closed; the others stay, and a closed one makes room."""
    async with many(hot, 3) as wires:
        for wire in wires:
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
        monkeypatch.setattr(hot.server.open_connections, "count_max", hot.server.open_connections.count)
        for data in (b"", hot.get(), hot.post(key := new_key())):
            async with connect(hot.url) as wire:
                await wire.send(data)
                (response,) = await wire.receive_all()
                assert (response.status, response.json["code"]) == (503, "overloaded")
                assert (response.json["outcome"], response.json["retry"]) == ("not_applied", "same_key")
                assert response.headers["connection"] == "close"
                assert 1 <= int(response.headers["retry-after"]) <= 3
        for wire in wires:
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
        there = hot.server.open_connections.count
        wires[0].writer.close()
        await until(lambda: hot.server.open_connections.count < there)
        async with connect(hot.url) as wire:
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
    assert not await hot.bound(key)


async def test_heads_that_never_end(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent connections are closed in time, with a 408 within a head; normal clients are served at the same time."""
    monkeypatch.setattr("server.http.wire.protocol.HEAD_DEADLINE_SECONDS", FLOOD_HEAD_SECONDS)
    async with many(hot, FLOOD) as wires, connect(hot.url) as good:
        for number, wire in enumerate(wires):
            await wire.send(STARTS[number % len(STARTS)])
        ending = asyncio.gather(
            *(closed(wires[n :: len(STARTS)], *[408] * (len(start) > 2)) for n, start in enumerate(STARTS))
        )
        served = 0
        while not ending.done():
            await good.send(hot.get() + hot.post(new_key(), body=OTHER_BODY))
            assert [(await answered(good)).status for _ in range(2)] == [200, 201]
            served += 1
            await asyncio.sleep(0.01)
        await ending
        assert served
        # The silent connections had less time than this one, which has been served.
        monkeypatch.setattr("server.http.wire.protocol.HEAD_DEADLINE_SECONDS", HEAD_SECONDS)
        await good.send(hot.get())
        assert (await answered(good)).status == 200
        async with connect(hot.url) as new:
            await closed([new])
        await good.send(hot.get())
        assert (await answered(good)).status == 200


@pytest.mark.parametrize("served", [0, 1], ids=["new", "served"])
async def test_heads_that_dribble(hot: Hot, monkeypatch: pytest.MonkeyPatch, served: int) -> None:
    """A head must be complete in time, however busily its bytes arrive, on new and on served connections."""
    monkeypatch.setattr("server.http.wire.protocol.HEAD_DEADLINE_SECONDS", HEAD_SECONDS)
    async with connect(hot.url) as wire:
        for _ in range(served):
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
        ended = asyncio.create_task(wire.receive())
        await wire.send(b"GET /v1/accounts/alice HTTP/1.1\r\nX: ")
        started = time.monotonic()
        while not ended.done():
            await wire.send(b"x")
            await asyncio.sleep(0.02)
            assert time.monotonic() - started < 10
        # The bytes sent since may have reset the connection before the answer was read.
        response = await ended
        assert response is None or response.status == 408


@pytest.mark.parametrize(
    ("start", "line"),
    [
        pytest.param(b"", b"\r\n", id="empty lines"),
        pytest.param(b"GET /v1/accounts/alice HTTP/1.1\r\n", b"X: " + b"x" * 1_000 + b"\r\n", id="fields"),
    ],
)
async def test_a_head_without_an_end_is_not_kept(hot: Hot, start: bytes, line: bytes) -> None:
    """A head beyond all limits ends its connection, with or without an answer, before the deadline."""
    async with connect(hot.url) as wire:
        await wire.send(start)
        ended = asyncio.create_task(wire.receive())
        sent = 0
        while not ended.done():
            await wire.send(line * (1 + 500 // len(line)))
            await asyncio.sleep(0)
            sent += 500
            assert sent < 2_000_000
        response = await ended
        assert response is None or response.status == 400


async def test_idle_connections_are_closed(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections are closed; one that waits for its answer is not."""
    monkeypatch.setattr("server.http.wire.protocol.KEEPALIVE_SECONDS", HEAD_SECONDS)
    monkeypatch.setattr("server.http.wire.protocol.HEAD_DEADLINE_SECONDS", HEAD_SECONDS)
    async with many(hot, 20) as wires, connect(hot.url) as waiting:
        for wire in wires:
            await wire.send(hot.get() * 2)
            assert [(await answered(wire)).status for _ in range(2)] == [200, 200]
        with hot.redis_held():
            await waiting.send(hot.post(new_key(), body=OTHER_BODY))
            await hot.counted(0, 1)
            await closed(wires)
            await asyncio.sleep(2 * HEAD_SECONDS)
        assert (await answered(waiting)).status == 201


async def test_slow_bodies_hold_no_place(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postings whose bodies are still arriving leave all places to others, and are served once they are complete."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 1)
    monkeypatch.setattr(admission, "WAIT_SECONDS", 10.0)
    keys = [new_key() for _ in range(20)]
    async with many(hot, len(keys)) as wires:
        for wire, key in zip(wires, keys, strict=True):
            await wire.send(hot.post(key, LENGTH, body=None) + BODY[:5])
        await hot.counted(0, 0, 0, 0, len(keys) * len(BODY))
        async with connect(hot.url) as good:
            await good.send(hot.post(new_key(), body=OTHER_BODY))
            assert (await answered(good)).status == 201
        for wire in wires:
            await wire.send(BODY[5:])
        assert [(await answered(wire)).status for wire in wires] == [201] * len(keys)


async def test_bodies_that_arrive_are_bounded(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of arriving bytes a body is refused and its key stays free; complete bodies are accepted."""
    monkeypatch.setattr(admission, "ARRIVING_MAX_BYTES", 2 * len(BODY) + 10)
    keys = [new_key() for _ in range(4)]
    async with many(hot, 4) as wires:
        for wire, key in zip(wires[:2], keys, strict=False):
            await wire.send(hot.post(key, LENGTH, body=None))
        await hot.counted(0, 0, 0, 0, 2 * len(BODY))
        for wire, key, framing in zip(wires[2:], keys[2:], (LENGTH, CHUNKED), strict=True):
            await wire.send(hot.post(key, framing, body=None))
            response = await answered(wire)
            assert (response.status, response.json["code"]) == (503, "overloaded")
            assert (response.json["outcome"], response.json["retry"]) == ("not_applied", "same_key")
            assert "retry-after" in response.headers
        async with connect(hot.url) as good:
            await good.send(hot.post(keys[2], body=OTHER_BODY))
            assert (await answered(good)).status == 201
        for wire in wires[:2]:
            await wire.send(BODY)
            assert (await answered(wire)).status == 201
        assert not await hot.bound(keys[3])


async def test_a_body_comes_into_a_worker_without_a_place(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no place is free in time after a body has arrived, its posting is refused and not done."""
    key = new_key()
    async with connect(hot.url) as wire:
        await wire.send(hot.post(key, LENGTH, body=None))
        await hot.counted(0, 0, 0, 0, len(BODY))
        monkeypatch.setattr(admission, "RUNNING_MAX", 0)
        monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
        await wire.send(BODY + request("GET", "/livez"))
        response = await answered(wire)
        assert (response.status, response.json["code"]) == (503, "overloaded")
        assert (response.json["outcome"], response.json["retry"]) == ("not_applied", "same_key")
        assert (await answered(wire)).status == 200
    monkeypatch.undo()
    await hot.quiet()
    assert not await hot.bound(key)
