"""Requests sent ahead on one connection: answered in order, one by one, and no more of them read than are taken."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.http import protocol
from server.http.limits import READ_AHEAD_MAX_BYTES
from tests.input.wire import Response, Wire, connect, request
from tests.support.client import new_key
from tests.support.hot import OTHER_BODY, Hot, answered, plain, send_in_pieces
from tests.support.waiting import until

BROKEN = b"no HTTP at all\r\n\r\n"
# Larger than what the kernel takes for a client who does not read.
LARGE = {f"k{number}": "x" * 500 for number in range(50)}


def cuttings(size: int) -> list[list[int]]:
    """Return ways to cut so many bytes into packets: not at all, everywhere, and once at every few bytes."""
    return [[], *(list(range(step, size, step)) for step in (1, 7, 100)), *([cut] for cut in range(5, size, 23))]


async def test_however_they_are_cut_the_answers_are_those_of_requests_alone(hot: Hot) -> None:
    """Hot, hot, cold and hot requests are answered in order as each would be alone, in whatever packets they come."""
    parts = [hot.get("bob"), hot.post("cut", body=OTHER_BODY), request("GET", "/problems"), hot.get("nobody")]
    expected = []
    async with connect(hot.url) as wire:
        # The second time each says what it will go on to say.
        for part in (*parts, *parts):
            await wire.send(part)
            expected.append(plain(await answered(wire)))
    expected = expected[4:]
    data = b"".join(parts)
    async with connect(hot.url) as wire:
        for cuts in cuttings(len(data)):
            await send_in_pieces(wire, data, cuts)
            assert [plain(await answered(wire)) for _ in parts] == expected, cuts


async def test_what_is_broken_ends_the_connection_in_its_turn(hot: Hot) -> None:
    """
    Behind good requests what is no HTTP is answered last, and what was not answered before it was not done.

    aiohttp's parser forgets the requests it has read in the packet in which it finds something broken.
    """
    tail = b"".join([BROKEN, hot.post("behind broken")])
    for count, cut_by in enumerate((0, 1, 5, 40)):
        keys = [f"before-broken-{count}-{number}" for number in range(4)]
        parts = [hot.post(key, body=OTHER_BODY) for key in keys]
        good = b"".join(parts)
        # Nothing is sent behind the packet that ends the connection: a reset would take the answers with it.
        cuts = list(range(cut_by, len(good) + 1, cut_by)) if cut_by else []
        async with connect(hot.url) as wire:
            await send_in_pieces(wire, good + tail, cuts)
            answers = await wire.receive_all()
        statuses = [answer.status for answer in answers]
        assert statuses == [201] * (len(answers) - 1) + [400]
        assert answers[-1].json["code"] == "malformed_request"
        done = [await hot.bound(key) for key in keys]
        assert done == [True] * (len(answers) - 1) + [False] * (5 - len(answers))
        # One at a time, each is read before the broken one is.
        assert cut_by != 1 or len(answers) == 5
    assert not await hot.bound("behind broken")


async def test_what_is_broken_waits_for_the_answers_before_it(hot: Hot) -> None:
    """A posting that is under way is answered before the refusal of what came behind it."""
    async with connect(hot.url) as wire:
        with hot.redis_held():
            await wire.send(hot.post(key := new_key(), body=OTHER_BODY))
            await hot.counted(0, 1)
            await send_in_pieces(wire, BROKEN + hot.get(), [])
        assert [answer.status for answer in await wire.receive_all()] == [201, 400]
    assert await hot.bound(key)


async def test_each_sees_what_those_before_it_did(hot: Hot) -> None:
    """A read behind a posting shows it: no request begins before the one ahead of it has been answered."""
    start = await hot.client.balance("bob")
    count = 20
    data = b"".join(hot.post(new_key(), body=OTHER_BODY) + hot.get("bob") for _ in range(count))
    async with connect(hot.url) as wire:
        await wire.send(data)
        balances = []
        for _ in range(count):
            assert (await answered(wire)).status == 201
            balances.append((await answered(wire)).json["balance"])
    assert balances == [start + number + 1 for number in range(count)]


async def test_a_failure_is_answered_in_its_turn(
    hot: Hot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the server itself fails, the request hears 500, its log says so, and those behind it are served."""
    parts = hot.server._parts

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    places: list[tuple[Any, str]] = [
        (parts.self_check, "sample"),
        (parts.gate, "_entry"),
        (parts.gate, "enter"),
        (parts.gate.keyspace, "snapshot"),
        (parts.running, "enter"),
    ]
    for place, name in places:
        async with connect(hot.url) as wire:
            with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
                broken.setattr(place, name, fail)
                await wire.send(hot.get("alice", "X-Request-Id: failing") * 3 + request("GET", "/livez"))
                answers = [await answered(wire) for _ in range(4)]
            assert [answer.status for answer in answers] == [500, 500, 500, 200], name
            assert answers[0].json["code"] == "internal_error"
            assert "request failing failed" in caplog.text
            assert str(hot.client.token) not in caplog.text
            caplog.clear()
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
        await hot.quiet()


async def test_a_posting_that_fails_is_answered_in_its_turn(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a posting fails for a reason nobody foresaw, its caller is told that the outcome is unknown."""

    async def fail(*_: object) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async with connect(hot.url) as wire:
        with monkeypatch.context() as broken:
            broken.setattr(hot.server._parts.posting, "post", fail)
            await wire.send(hot.post("failing") * 2 + hot.get())
            answers = [await answered(wire) for _ in range(3)]
        assert [answer.status for answer in answers] == [500, 500, 200]
        assert (answers[0].json["outcome"], answers[0].json["retry"]) == ("unknown", "same_key")
        await wire.send(hot.post("failing", body=OTHER_BODY))
        assert (await answered(wire)).status == 201


@asynccontextmanager
async def narrow(url: str) -> AsyncIterator[Wire]:
    """A connection whose client takes few bytes ahead of reading them."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.setblocking(False)
    host, _, port = url.removeprefix("http://").partition(":")
    await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=link, limit=2**13)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def connection(hot: Hot) -> protocol.Protocol:
    """Return the one connection whose client does not take its answers."""
    (found,) = [some for some in hot.server.connections if some.writing_paused]
    assert isinstance(found, protocol.Protocol)
    return found


async def stuck(hot: Hot, wire: Wire, data: bytes) -> "asyncio.Task[None]":
    """Send *data* whose answers are not read, until the server has stopped to serve the connection."""
    sending = asyncio.create_task(wire.send(data))
    await until(lambda: any(some.writing_paused for some in hot.server.connections))
    return sending


async def large(hot: Hot) -> bytes:
    """Return a read of an account whose answer has 30 kB."""
    assert (await hot.client.open("large", metadata=LARGE)).status in (200, 201)
    return hot.get("large")


async def test_what_is_not_taken_is_not_made(hot: Hot) -> None:
    """A client that reads nothing gets nothing made for it, is not read far ahead, and finds all when it reads."""
    read = await large(hot)
    count = 600
    async with narrow(hot.url) as wire:
        sending = await stuck(hot, wire, read * count)
        stopped = connection(hot)
        await until(lambda: stopped._buffer_paused)
        assert stopped.transport is not None
        assert len(stopped._messages) <= stopped._max_msg_queue_size
        # One answer may be written where the bound is not yet reached.
        assert stopped.transport.get_write_buffer_size() < 64 * 1024 + 2 * 30_000
        assert hot.counts() == (0, 0, 0, 0, 0)
        for _ in range(20):
            assert (await hot.client.get("/v1/accounts/alice")).status == 200
        responses = {plain(await answered(wire))[2] for _ in range(count)}
        await sending
    assert len(responses) == 1


async def test_bodies_sent_ahead_are_not_read_far(hot: Hot) -> None:
    """Of postings that wait for their turn few bodies are held; all are done when it comes."""
    posts = [hot.post(f"ahead-{number}", body=OTHER_BODY.ljust(60_000)) for number in range(40)]
    async with connect(hot.url) as wire:
        with hot.redis_held():
            await wire.send(hot.get())
            await hot.counted(1)
            (stopped,) = [
                some for some in hot.server.connections if isinstance(some, protocol.Protocol) and some.answering
            ]
            sending = asyncio.create_task(wire.send(b"".join(posts)))
            await until(lambda: stopped._buffer_paused)
            held = sum(payload.total_bytes for _, payload in stopped._messages)
            # What one read of the socket brings may come on top.
            assert READ_AHEAD_MAX_BYTES < held < READ_AHEAD_MAX_BYTES + 256 * 1024
        assert (await answered(wire)).status == 200
        assert [(await answered(wire)).status for _ in posts] == [201] * len(posts)
        await sending


@pytest.mark.parametrize("ended", [b"", b"no HTTP\r\n\r\n"], ids=["open", "ended by the server"])
async def test_who_never_reads_is_cut_off(hot: Hot, monkeypatch: pytest.MonkeyPatch, ended: bytes) -> None:
    """A client that does not take its answers in time loses its connection, and what it held is free."""
    read = await large(hot)
    before = hot.server.connections_open
    async with narrow(hot.url) as wire:
        monkeypatch.setattr("server.http.connection.SEND_DEADLINE_SECONDS", 0.2)
        sending = await stuck(hot, wire, read * 400 + ended)
        await until(lambda: hot.server.connections_open == before)
        sending.cancel()
        await asyncio.wait([sending])


async def test_who_reads_in_time_is_not_cut_off(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was slow for a while starts with a new deadline when it has taken its answers."""
    read = await large(hot)
    async with narrow(hot.url) as wire:
        monkeypatch.setattr("server.http.connection.SEND_DEADLINE_SECONDS", 1.0)
        sending = await stuck(hot, wire, read * 400)
        responses: list[Response] = [await answered(wire) for _ in range(400)]
        await sending
        await asyncio.sleep(1.2)
        await wire.send(read)
        assert plain(await answered(wire)) == plain(responses[0])
