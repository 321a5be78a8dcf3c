"""In a flood, requests wait unread for a place, and are answered as if they had been read."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from server.http import admission
from server.http.cors import Cors
from server.http.wire.connection import Connection
from server.http.wire.head import Head
from server.http.wire.unread import UNREAD_MAX_BYTES, unread
from tests.input.wire import Wire, connect, request
from tests.support.client import new_key
from tests.support.hot import BODY, JSON, OTHER_BODY, Hot, answered
from tests.support.waiting import until

TOKEN = "tsk_1_x_y"
FOR_EVER = 60.0


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place for each kind, and waits long enough for the test to look at them."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 2)
    monkeypatch.setattr(admission, "RUNNING_WRITES_MAX", 1)
    monkeypatch.setattr(admission, "RUNNING_READS_MAX", 1)
    monkeypatch.setattr(admission, "WAIT_SECONDS", FOR_EVER)


def post(hot: Hot, key: str, *lines: str) -> bytes:
    """Return a posting that no lock blocks."""
    return hot.post(key, *lines, body=OTHER_BODY)


def waiting_unread(hot: Hot) -> int:
    """Return how many connections have a request that waits unread."""
    return sum(cast(Connection, protocol)._unread is not None for protocol in hot.server.connections)


@asynccontextmanager
async def busy(hot: Hot, count: int) -> AsyncIterator[list[Wire]]:
    """
    Yield connections that have been served before, while all places are taken and a request waits for each.

    Further requests wait behind those; `hot.resume()` frees all places.
    """
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(hot.url)) for _ in range(count)]
        for wire in wires:
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
        with hot.redis_held():
            taken = [await stack.enter_async_context(connect(hot.url)) for _ in range(4)]
            for number, wire in enumerate(taken):
                await wire.send(post(hot, new_key()) if number % 2 else hot.get())
            await until(lambda: hot.counts() == (1, 1, 1, 1, 0))
            yield wires
            hot.resume()
            for wire in taken:
                assert (await answered(wire)).status in (200, 201, 503)


async def test_they_are_served_in_their_turn(hot: Hot) -> None:
    """A request that waited unread is read once it has a place, is done once, and keeps its caller's request id."""
    keys = [new_key() for _ in range(3)]
    async with busy(hot, 4) as wires:
        for wire, key in zip(wires[:3], keys, strict=True):
            await wire.send(post(hot, key, f"X-Request-Id: mine-{key}", "Connection: keep-alive"))
        await wires[3].send(hot.get())
        await until(lambda: waiting_unread(hot) == 4)
        hot.resume()
        for wire, key in zip(wires[:3], keys, strict=True):
            response = await answered(wire)
            assert (response.status, response.headers["x-request-id"]) == (201, f"mine-{key}")
            assert "idempotent-replayed" not in response.headers
            assert await hot.bound(key)
        assert (await answered(wires[3])).status == 200
    await hot.quiet()


async def test_refusals_are_alike(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request refused unread gets the usual refusal, binds no key and is counted, and its connection stays open."""
    tallies = hot.app.tallies
    before = tallies.problems["overloaded"]
    line = "X-Request-Id: mine-1"
    key = new_key()
    requests = [(hot.get("alice", line), post(hot, key, line)), (hot.get(), post(hot, key))]
    async with busy(hot, 4) as wires, connect(hot.url) as fresh, connect(hot.url) as other:
        # The first requests on their connections are read.
        await fresh.send(requests[0][0])
        await other.send(requests[0][1])
        for number, wire in enumerate(wires):
            await wire.send(requests[number // 2][number % 2])
        await until(lambda: waiting_unread(hot) == 4)
        monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
        read = [await answered(fresh), await answered(other)]
        found = [await answered(wire) for wire in wires]
        for number, response in enumerate(found):
            like = read[number % 2]
            assert (response.status, response.json["code"]) == (503, "overloaded")
            assert response.headers.keys() == like.headers.keys()
            assert 1 <= int(response.headers["retry-after"]) <= 3
            assert response.headers["x-request-id"] == response.json["request_id"]
            assert {**response.json, "request_id": "mine-1"} == like.json
            assert (response.headers["x-request-id"] == "mine-1") == (number < 2)
        # The two that had waited before, the two that were read, and the four unread ones.
        assert tallies.problems["overloaded"] - before == 8
        monkeypatch.setattr(admission, "WAIT_SECONDS", FOR_EVER)
        hot.resume()
        for wire in wires:
            await wire.send(hot.get())
            assert (await answered(wire)).status == 200
        assert not await hot.bound(key)
    await hot.quiet()


async def test_a_refusal_may_be_read_by_a_page(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of an unread request allows the origin that asked, if it is configured."""
    monkeypatch.setattr(hot.server.pipeline, "_cors", Cors(["https://app.example.com"]))
    async with busy(hot, 3) as wires:
        await wires[0].send(hot.get("alice", "Origin: https://app.example.com"))
        await wires[1].send(post(hot, new_key(), "oRIGIN:https://app.example.com"))
        await wires[2].send(hot.get("alice", "Origin: https://evil.example.com"))
        await until(lambda: waiting_unread(hot) == 3)
        monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
        for number, wire in enumerate(wires):
            response = await answered(wire)
            assert (response.status, response.headers["vary"]) == (503, "Origin")
            allowed = response.headers.get("access-control-allow-origin")
            assert allowed == ("https://app.example.com" if number < 2 else None)
        monkeypatch.setattr(admission, "WAIT_SECONDS", FOR_EVER)
    await hot.quiet()


@pytest.mark.parametrize("refuse", [False, True], ids=["served", "refused"])
async def test_what_comes_behind_is_served_behind(hot: Hot, monkeypatch: pytest.MonkeyPatch, refuse: bool) -> None:
    """Requests behind a waiting one, in pieces or large, are answered in order."""
    keys = [new_key() for _ in range(3)]
    second = post(hot, keys[1])
    large = request("POST", "/v1/accounts", JSON, body=b" " * 60_000, token=hot.client.token)
    async with busy(hot, 1) as (wire,):
        await wire.send(post(hot, keys[0]))
        await until(lambda: waiting_unread(hot) == 1)
        await wire.send(second[:50])
        await wire.send(second[50:] + request("GET", "/livez") + large * 3)
        if refuse:
            monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
            first = await answered(wire)
            monkeypatch.setattr(admission, "WAIT_SECONDS", FOR_EVER)
            hot.resume()
        else:
            hot.resume()
            first = await answered(wire)
        assert first.status == (503 if refuse else 201)
        assert [(await answered(wire)).status for _ in range(5)] == [201, 200, 400, 400, 400]
        await wire.send(post(hot, keys[2]))
        assert (await answered(wire)).status == 201
        assert [await hot.bound(key) for key in keys] == [not refuse, True, True]
    await hot.quiet()


@pytest.mark.parametrize("refuse", [False, True], ids=["served", "refused"])
async def test_who_goes_away_leaves_nothing(hot: Hot, monkeypatch: pytest.MonkeyPatch, refuse: bool) -> None:
    """If the caller disconnects while its request waits unread, nothing is done and nothing stays in memory."""
    key = new_key()
    async with busy(hot, 1) as (wire,):
        await wire.send(post(hot, key))
        await until(lambda: waiting_unread(hot) == 1)
        wire.writer.transport.abort()
        await until(lambda: waiting_unread(hot) == 0)
        if refuse:
            monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
    await hot.quiet()
    assert not await hot.bound(key)


async def test_a_part_of_a_request_is_never_taken_for_one(hot: Hot) -> None:
    """Bytes in the head or body of a request that look like another request are a part of the first."""
    inner = hot.get()
    key = new_key()
    outer = post(hot, key, f"X-Other: {'x' * 100}")
    body = request("POST", "/v1/accounts", JSON, body=b" " * 10 + inner, token=hot.client.token)
    async with busy(hot, 2) as wires:
        # In the head, which has begun to arrive behind another request.
        await wires[0].send(request("GET", "/livez") + outer[: outer.index(b"xxx")])
        assert (await answered(wires[0])).status == 200
        await wires[0].send(inner)
        # In the body.
        await wires[1].send(body[: -len(inner)])
        await until(lambda: hot.counts()[3] == 2)
        await wires[1].send(inner)
        # The first is refused for its repeated fields, as a request without a key.
        await until(lambda: hot.server.pipeline.callers.admission.reads == 1)
        assert waiting_unread(hot) == 0
        hot.resume()
        assert [(await answered(wire)).status for wire in wires] == [400, 400]
    assert not await hot.bound(key)
    await hot.quiet()


async def test_other_requests_are_read(hot: Hot) -> None:
    """Unusual requests, and those of another caller than the one before, are read as usual."""
    stranger = await hot.service.client("hot")
    assert (await stranger.get("/v1/accounts/alice")).status == 200
    requests = [
        (hot.get("alice", token=stranger.token), 200),
        (hot.get("alice", "Connection: close"), 200),
        (hot.get("alice", "If-None-Match: a", "If-None-Match: b"), 400),
        (request("GET", "/v1/accounts", token=hot.client.token), 200),
        (request("GET", "/livez"), 200),
        (request("GET", "/v1/accounts/alice"), 401),
        (b"GET /v1/accounts/alice HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    ]
    async with busy(hot, len(requests)) as wires:
        for wire, (data, _) in zip(wires, requests, strict=True):
            await wire.send(data)
        assert (await answered(wires[4])).status == 200
        assert waiting_unread(hot) <= 1, "fields that nobody looks at are told when it is read"
        hot.resume()
        for number, (wire, (_, status)) in enumerate(zip(wires, requests, strict=True)):
            if number != 4:
                assert (await answered(wire)).status == status, number
    await hot.quiet()


def head_of(token: str) -> Head:
    """Return the head of a caller's request."""
    raw = ((b"Authorization", b"Bearer " + token.encode()),)
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {token}"}))
    message = RawRequestMessage(
        "GET",
        "/",
        HttpVersion11,
        headers,
        raw,
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL("/"),
    )
    return Head(message)


KEY = "Idempotency-Key: k"
GOOD = request("POST", "/v1/transfers", JSON, KEY, body=BODY, token=TOKEN)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD + b"x", id="more than one"),
        pytest.param(GOOD[:-1], id="less than one"),
        pytest.param(GOOD + GOOD, id="two"),
        pytest.param(GOOD.replace(b"Content-Length: ", b"Content-Length: +"), id="a length with a sign"),
        pytest.param(request("POST", "/v1/transfers", "content-length: 3", body=BODY, token=TOKEN), id="two lengths"),
        pytest.param(
            request("POST", "/v1/transfers", "Transfer-Encoding: chunked", body=BODY, token=TOKEN), id="chunks"
        ),
        pytest.param(
            request("POST", "/v1/transfers", "TRANSFER-ENCODING :\tchunked", body=BODY, token=TOKEN), id="odd chunks"
        ),
        pytest.param(request("POST", "/v1/transfers", "Upgrade: x", body=BODY, token=TOKEN), id="an upgrade"),
        pytest.param(request("POST", "/v1/transfers", "Expect: 100-continue", body=BODY, token=TOKEN), id="expects"),
        pytest.param(request("POST", "/v1/transfers", "Connection: close", body=BODY, token=TOKEN), id="the last"),
        pytest.param(
            request("POST", "/v1/transfers", "X: a\nContent-Length: 0", body=BODY, token=TOKEN), id="a bare LF"
        ),
        pytest.param(request("POST", "/v1/transfers", body=BODY), id="no key"),
        pytest.param(request("POST", "/v1/transfers", body=BODY, token="other"), id="another key"),
        pytest.param(request("POST", "/v1/transfers?x=1", body=BODY, token=TOKEN), id="a query"),
        pytest.param(request("GET", "/v1/accounts/a", body=b"x", token=TOKEN), id="a read with a body"),
        pytest.param(request("GET", "/v1/accounts/a%20", token=TOKEN), id="an escape"),
        pytest.param(request("GET", "/v1/accounts/a/entries", token=TOKEN), id="another read"),
        pytest.param(request("HEAD", "/v1/accounts/a", token=TOKEN), id="only a head"),
        pytest.param(request("POST", "/v1/transfers", body=b" " * UNREAD_MAX_BYTES, token=TOKEN), id="a large one"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_does_not_wait_unread(data: bytes) -> None:
    """Bytes that another parser could take for something else than one request do not wait unread."""
    assert unread(data, head_of(TOKEN), 0.0) is None


@given(cut=st.integers(0, len(GOOD) - 1), more=st.binary(min_size=1, max_size=30))
def test_only_one_whole_request_waits_unread(cut: int, more: bytes) -> None:
    """Part of a request does not wait unread, nor does a request with bytes behind it."""
    head = head_of(TOKEN)
    found = unread(GOOD, head, 1.0)
    assert found is not None
    assert (found.write, found.route, found.data) == (True, ("POST", "/v1/transfers"), GOOD)
    assert unread(GOOD[:cut], head, 1.0) is None
    assert unread(GOOD + more, head, 1.0) is None
