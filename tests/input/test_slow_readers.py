"""Clients that read their answers slowly or not at all: little is buffered for them, and they are cut off in time."""

import asyncio

import pytest

from server.http.limits import READ_AHEAD_MAX_BYTES
from server.http.wire import protocol
from server.http.wire.connection import Connection
from tests.input.wire import Response, Wire, connect, narrow, request
from tests.support.hot import OTHER_BODY, Hot, answered, plain
from tests.support.waiting import until

# Larger than the kernel's buffers for a client that does not read.
LARGE = {f"k{number}": "x" * 500 for number in range(50)}


def connection(hot: Hot) -> protocol.Protocol:
    """Return the one connection whose client does not read its answers."""
    (found,) = [some for some in hot.server.connections if some.writing_paused]
    assert isinstance(found, protocol.Protocol)
    return found


async def stuck(hot: Hot, wire: Wire, data: bytes) -> "asyncio.Task[None]":
    """Send *data* without reading the answers, until the server has stopped writing."""
    sending = asyncio.create_task(wire.send(data))
    await until(lambda: any(some.writing_paused for some in hot.server.connections))
    return sending


async def large(hot: Hot) -> bytes:
    """Return a read of an account whose answer has 30 kB."""
    assert (await hot.client.open("large", metadata=LARGE)).status in (200, 201)
    return hot.get("large")


async def test_what_is_not_taken_is_not_made(hot: Hot) -> None:
    """For a client that does not read, the server stops answering and reading; all answers come once it reads."""
    read = await large(hot)
    count = 600
    async with narrow(hot.url) as wire:
        sending = await stuck(hot, wire, read * count)
        stopped = connection(hot)
        await until(lambda: stopped._buffer_paused)
        assert stopped.transport is not None
        assert len(stopped._messages) <= stopped._max_msg_queue_size
        # One more answer may be written just before the bound is reached.
        assert stopped.transport.get_write_buffer_size() < 64 * 1024 + 2 * 30_000
        assert hot.counts() == (0, 0, 0, 0, 0)
        for _ in range(20):
            assert (await hot.client.get("/v1/accounts/alice")).status == 200
        responses = {plain(await answered(wire))[2] for _ in range(count)}
        await sending
    assert len(responses) == 1


async def test_bodies_sent_ahead_are_not_read_far(hot: Hot) -> None:
    """Few bodies of waiting postings are held in memory; all are done in their turn."""
    posts = [hot.post(f"ahead-{number}", body=OTHER_BODY.ljust(60_000)) for number in range(40)]
    async with connect(hot.url) as wire:
        with hot.redis_held():
            await wire.send(hot.get())
            await hot.counted(1)
            (stopped,) = [some for some in hot.server.connections if isinstance(some, Connection) and some.call]
            sending = asyncio.create_task(wire.send(b"".join(posts)))
            await until(lambda: stopped._buffer_paused)
            held = sum(payload.total_bytes for _, payload in stopped._messages)
            # One read of the socket may exceed the bound.
            assert READ_AHEAD_MAX_BYTES < held < READ_AHEAD_MAX_BYTES + 256 * 1024
        assert (await answered(wire)).status == 200
        assert [(await answered(wire)).status for _ in posts] == [201] * len(posts)
        await sending


async def test_who_never_reads_is_cut_off(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its answers in time loses its connection, and its memory is freed."""
    read = await large(hot)
    before = hot.server.open_connections.count
    async with narrow(hot.url) as wire:
        monkeypatch.setattr("server.http.wire.protocol.SEND_DEADLINE_SECONDS", 0.2)
        sending = await stuck(hot, wire, read * 400)
        await until(lambda: hot.server.open_connections.count == before)
        sending.cancel()
        await asyncio.wait([sending])


async def test_who_reads_in_time_is_not_cut_off(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a slow client has read its answers, it gets a new deadline."""
    read = await large(hot)
    async with narrow(hot.url) as wire:
        monkeypatch.setattr("server.http.wire.protocol.SEND_DEADLINE_SECONDS", 1.0)
        sending = await stuck(hot, wire, read * 400)
        responses: list[Response] = [await answered(wire) for _ in range(400)]
        await sending
        await asyncio.sleep(1.2)
        await wire.send(read)
        assert plain(await answered(wire)) == plain(responses[0])


async def test_who_never_reads_does_not_keep_what_is_closed(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that the server closes waits for its last answers only until their deadline."""
    monkeypatch.setattr("server.http.wire.protocol.KEEPALIVE_SECONDS", 0.3)
    monkeypatch.setattr("server.http.wire.protocol.HEAD_DEADLINE_SECONDS", 0.3)
    read = await large(hot)
    async with narrow(hot.url) as wire:
        sending = await stuck(hot, wire, read * 400)
        stopped = connection(hot)
        monkeypatch.setattr("server.http.wire.protocol.SEND_DEADLINE_SECONDS", 0.2)
        # The connection is closed as idle.
        await until(lambda: stopped.transport is None)
        await until(lambda: stopped not in hot.server.connections)
        sending.cancel()
        await asyncio.wait([sending])


async def test_a_slow_reader_finds_its_answers_in_order(hot: Hot) -> None:
    """If a cold request's answer waits to be read, later answers do not overtake it."""
    await large(hot)
    names = [f"n{number}" for number in range(900)]
    # A large cold one; a hot one that is slower than the next; a fast one.
    kinds: list[tuple[str, list[str]]] = [
        ("/v1/accounts", []),
        ("/v1/accounts/alice", ["Cache-Control: no-cache"]),
        ("/livez", []),
    ]
    data = b""
    for number, name in enumerate(names):
        target, lines = kinds[number % 3]
        data += request("GET", target, f"X-Request-Id: {name}", *lines, token=hot.client.token)
    async with narrow(hot.url) as wire:
        sending = await stuck(hot, wire, data)
        responses = [await answered(wire) for _ in names]
        await sending
    assert [response.headers["x-request-id"] for response in responses] == names
    assert {response.status for response in responses} == {200}
