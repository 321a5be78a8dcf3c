"""Pipelined requests are answered one by one in order, each as it would be alone."""

import asyncio
import logging
from typing import Any

import pytest

from server.http.limits import HEAD_PART_MAX_BYTES
from server.ledger.self_check import SelfCheck
from tests.input.wire import connect, request
from tests.support.client import new_key
from tests.support.hot import OTHER_BODY, Hot, answered, plain, send_in_pieces

BROKEN = b"no HTTP at all\r\n\r\n"


def cuttings(size: int) -> list[list[int]]:
    """Return ways to cut bytes into packets: not at all, at regular distances, and once at various positions."""
    return [[], *(list(range(step, size, step)) for step in (1, 7, 100)), *([cut] for cut in range(5, size, 23))]


async def test_however_they_are_cut_the_answers_are_those_of_requests_alone(hot: Hot) -> None:
    """Hot and cold requests are answered in order, each as it would be alone, however they are cut into packets."""
    parts = [hot.get("bob"), hot.post("cut", body=OTHER_BODY), request("GET", "/problems"), hot.get("nobody")]
    expected = []
    async with connect(hot.url) as wire:
        # The first posting is not a replay; the second answers are the ones that are repeated.
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
    Broken bytes behind valid requests are answered last, and a request without an answer was not done.

    aiohttp's parser drops the requests of a packet in which it finds broken bytes.
    """
    tail = b"".join([BROKEN, hot.post("behind broken")])
    for count, cut_by in enumerate((0, 1, 5, 40)):
        keys = [f"before-broken-{count}-{number}" for number in range(4)]
        parts = [hot.post(key, body=OTHER_BODY) for key in keys]
        good = b"".join(parts)
        # Nothing is sent after the packet that ends the connection: a reset would discard the answers.
        cuts = list(range(cut_by, len(good) + 1, cut_by)) if cut_by else []
        async with connect(hot.url) as wire:
            await send_in_pieces(wire, good + tail, cuts)
            answers = await wire.receive_all()
        statuses = [answer.status for answer in answers]
        assert statuses == [201] * (len(answers) - 1) + [400]
        assert answers[-1].json["code"] == "malformed_request"
        done = [await hot.bound(key) for key in keys]
        assert done == [True] * (len(answers) - 1) + [False] * (5 - len(answers))
        # One byte at a time, each request is read before the broken bytes.
        assert cut_by != 1 or len(answers) == 5
    assert not await hot.bound("behind broken")


async def test_what_is_broken_waits_for_the_answers_before_it(hot: Hot) -> None:
    """A running posting is answered before the refusal of the bytes behind it."""
    async with connect(hot.url) as wire:
        with hot.redis_held():
            await wire.send(hot.post(key := new_key(), body=OTHER_BODY))
            await hot.counted(0, 1)
            await send_in_pieces(wire, BROKEN + hot.get(), [])
        assert [answer.status for answer in await wire.receive_all()] == [201, 400]
    assert await hot.bound(key)


async def test_each_sees_what_those_before_it_did(hot: Hot) -> None:
    """A read behind a posting shows it, because a request starts only after the one before it was answered."""
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
    """If the server fails, the request gets a 500, the log has its id, and the next requests are served."""
    parts = hot.app

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    places: list[tuple[Any, str]] = [
        (SelfCheck, "sample"),
        (parts.gate, "_decision"),
        (parts.gate, "enter"),
        (parts.gate.keyspace, "snapshot"),
        (hot.server.pipeline.running, "enter"),
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
    """If a posting fails unexpectedly, the caller is told that the outcome is unknown."""

    async def fail(*_: object) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async with connect(hot.url) as wire:
        with monkeypatch.context() as broken:
            broken.setattr(hot.app.posting, "post", fail)
            await wire.send(hot.post("failing") * 2 + hot.get())
            answers = [await answered(wire) for _ in range(3)]
        assert [answer.status for answer in answers] == [500, 500, 200]
        assert (answers[0].json["outcome"], answers[0].json["retry"]) == ("unknown", "same_key")
        await wire.send(hot.post("failing", body=OTHER_BODY))
        assert (await answered(wire)).status == 201


async def test_a_gate_that_is_cancelled_ends_the_connection(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the gate's answer is cancelled, the connection ends without another answer, and nothing leaks."""
    asked: asyncio.Queue[asyncio.Future[object]] = asyncio.Queue()

    def enter(*_: object) -> "asyncio.Future[object]":
        said: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        asked.put_nowait(said)
        return said

    # The shortest path is that of a read with a repeated head.
    for before, data in ((0, hot.get()), (1, hot.get()), (0, hot.post(new_key()))):
        async with connect(hot.url) as wire:
            await wire.send(hot.get() * before)
            for _ in range(before):
                assert (await answered(wire)).status == 200
            with monkeypatch.context() as broken:
                broken.setattr(hot.app.gate, "enter", enter)
                await wire.send(data + hot.get())
                (await asked.get()).cancel()
                assert await wire.receive() is None
        await hot.quiet()


async def test_heads_in_pieces_do_not_add_up(hot: Hot) -> None:
    """A connection may bring any number of heads in pieces, because each is bounded separately."""
    data = hot.get("alice", "X: " + "x" * 1_000)
    async with connect(hot.url) as wire:
        for _ in range(HEAD_PART_MAX_BYTES // 1_000 + 10):
            await send_in_pieces(wire, data, [len(data) - 2])
            assert (await answered(wire)).status == 200
