"""More requests than a worker takes: they wait briefly, are refused before anything is done, and may be retried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from server.http import admission
from tests.input.wire import Response, Wire, connect, request
from tests.support.client import new_key
from tests.support.hot import JSON, OTHER_BODY, Hot, answered
from tests.support.waiting import until

RUNNING_MAX = 4
# The most writes among these, and the most reads.
RUNNING_KIND_MAX = 3
FOR_EVER = 60.0


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few places, and waits long enough for the test to look at them."""
    monkeypatch.setattr(admission, "RUNNING_MAX", RUNNING_MAX)
    monkeypatch.setattr(admission, "RUNNING_WRITES_MAX", RUNNING_KIND_MAX)
    monkeypatch.setattr(admission, "RUNNING_READS_MAX", RUNNING_KIND_MAX)
    monkeypatch.setattr(admission, "WAIT_SECONDS", FOR_EVER)


@asynccontextmanager
async def sent(hot: Hot, *requests: bytes) -> AsyncIterator[list[Wire]]:
    """Send each request on its own connection, and each after the one before has arrived."""
    async with AsyncExitStack() as stack:
        wires = []
        for data in requests:
            there = sum(hot.counts()[:4])
            wires.append(await stack.enter_async_context(connect(hot.url)))
            await wires[-1].send(data)
            await until(lambda there=there: sum(hot.counts()[:4]) > there)
        yield wires


def refused(response: Response, *, write: bool) -> None:
    """Check the refusal of a full worker."""
    assert (response.status, response.json["code"]) == (503, "overloaded")
    assert response.headers["content-type"] == "application/problem+json"
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert response.headers["x-request-id"] == response.json["request_id"]
    told = (response.json.get("outcome"), response.json.get("retry"))
    assert told == (("not_applied", "same_key") if write else (None, None))
    assert response.json["type"] == "/problems/overloaded"
    assert "connection" not in response.headers


def post(hot: Hot, key: str) -> bytes:
    """Return a posting that no lock of these tests blocks."""
    return hot.post(key, body=OTHER_BODY)


def opening(hot: Hot, key: str) -> bytes:
    """Return a write on aiohttp's path."""
    body = f'{{"id":"{key}","currency":"EUR"}}'.encode()
    return request("POST", "/v1/accounts", JSON, body=body, token=hot.client.token)


async def opened(hot: Hot, key: str) -> bool:
    """Return whether that write was done."""
    return (await hot.client.get(f"/v1/accounts/{key}")).status == 200


@pytest.mark.parametrize("hot_route", [True, False], ids=["hot", "cold"])
async def test_writes_over_the_cap_are_refused_undone(
    hot: Hot, monkeypatch: pytest.MonkeyPatch, hot_route: bool
) -> None:
    """A refused write does nothing, its key can be used again, and its connection and the other requests continue."""
    keys = [new_key() for _ in range(5)]
    make, done = (post, Hot.bound) if hot_route else (opening, opened)
    refusals = hot.admission.refused
    with hot.redis_held():
        async with sent(hot, *(make(hot, key) for key in keys)) as wires:
            assert hot.counts() == (0, 3, 0, 2, 0)
            monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
            for wire in wires[3:]:
                refused(await answered(wire), write=True)
            assert hot.counts() == (0, 3, 0, 0, 0)
            assert hot.admission.refused == refusals + 2
            hot.resume()
            assert [(await answered(wire)).status for wire in wires[:3]] == [201] * 3
            assert [await done(hot, key) for key in keys] == [True] * 3 + [False] * 2
            for wire, key in zip(wires[3:], keys[3:], strict=True):
                await wire.send(make(hot, key))
                response = await answered(wire)
                assert response.status == 201
                assert "idempotent-replayed" not in response.headers


@pytest.mark.parametrize("target", ["/v1/accounts/alice", "/v1/accounts"], ids=["hot", "cold"])
async def test_reads_do_not_take_the_places_of_writes(hot: Hot, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Reads beyond their share wait and are refused while writes are still admitted."""
    read = request("GET", target, token=hot.client.token)
    with hot.redis_held():
        async with sent(hot, *[read] * 5, post(hot, key := new_key()), post(hot, new_key())) as wires:
            assert hot.counts() == (3, 1, 2, 1, 0)
            monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
            for wire, write in ((wires[3], False), (wires[4], False), (wires[6], True)):
                refused(await answered(wire), write=write)
            hot.resume()
            assert [(await answered(wires[place])).status for place in (0, 1, 2, 5)] == [200] * 3 + [201]
    assert await hot.bound(key)


async def test_writes_that_are_stuck_leave_places_to_reads(hot: Hot) -> None:
    """While more writes than may run wait for PostgreSQL, cached accounts can be read."""
    async with connect(hot.url) as reader, AsyncExitStack() as stack:
        await stack.enter_async_context(hot.postings_held())
        async with sent(hot, *(hot.post(new_key()) for _ in range(5))) as wires:
            assert hot.counts() == (0, 3, 0, 2, 0)
            for _ in range(3):
                await reader.send(hot.get("bob"))
                assert (await answered(reader)).status == 200
            assert hot.counts() == (0, 3, 0, 2, 0)
            await stack.aclose()
            assert [(await answered(wire)).status for wire in wires] == [201] * 5


@pytest.mark.parametrize(
    ("in_order", "expected"), [(2, [0, 2, 4, 1, 3]), (0, [0, 4, 2, 3, 1])], ids=["few wait", "many wait"]
)
async def test_a_place_that_is_free_is_given_on(
    hot: Hot, monkeypatch: pytest.MonkeyPatch, in_order: int, expected: list[int]
) -> None:
    """A free place goes to the first waiting request, or to the last if many wait, and to writes before reads."""
    monkeypatch.setattr(admission, "IN_ORDER_MAX", (in_order, in_order))
    monkeypatch.setattr(admission, "RUNNING_MAX", 1)
    monkeypatch.setattr(admission, "RUNNING_WRITES_MAX", 1)
    monkeypatch.setattr(admission, "RUNNING_READS_MAX", 1)
    order: list[int] = []

    async def note(wire: Wire, number: int) -> int:
        status = (await answered(wire)).status
        order.append(number)
        return status

    requests = [hot.post(new_key()), hot.get(), post(hot, new_key()), hot.get("bob"), post(hot, new_key())]
    with hot.redis_held():
        async with sent(hot, *requests) as wires:
            assert hot.counts() == (0, 1, 2, 2, 0)
            answers = asyncio.gather(*(note(wire, number) for number, wire in enumerate(wires)))
            hot.resume()
            assert await answers == [201, 200, 201, 200, 201]
    assert order == expected


async def test_health_is_answered_however_busy(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes need no place, on their own connections and behind a refused request."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 0)
    monkeypatch.setattr(admission, "RUNNING_ANONYMOUS_MAX", 0)
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
    probes = [request("GET", path) for path in ("/livez", "/readyz", "/problems", "/nowhere")]
    async with connect(hot.url) as wire:
        await wire.send(b"".join([*probes, hot.get(), *probes]))
        statuses = [(await answered(wire)).status for _ in range(9)]
    assert statuses == [200, 200, 503, 503, 503, 200, 200, 503, 503]


async def test_who_has_no_key_takes_no_place_of_those_who_have(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """While too many requests without a key wait for Redis, requests with a key are admitted as usual."""
    monkeypatch.setattr(admission, "RUNNING_ANONYMOUS_MAX", 2)
    anonymous = hot.server.pipeline.callers.admission
    requests = [request("GET", path) for path in ("/nothing", "/problems", "/v1/accounts/alice", "/v1/transfers")] * 2
    with hot.redis_held():
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(connect(hot.url)) for _ in requests]
            for wire, data in zip(wires, requests, strict=True):
                await wire.send(data)
            await until(lambda: (anonymous.reads, anonymous.waiting) == (2, (6, 0)))
            assert hot.counts() == (0, 0, 0, 0, 0)
            async with sent(hot, *[hot.get()] * 3, post(hot, new_key())) as served:
                assert hot.counts() == (3, 1, 0, 0, 0)
                hot.resume()
                assert [(await answered(wire)).status for wire in served] == [200] * 3 + [201]
            assert [(await answered(wire)).status for wire in wires] == [404, 200, 401, 401] * 2
    assert (anonymous.reads, anonymous.waiting) == (0, (0, 0))


async def test_who_has_no_key_and_no_place_is_refused(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests without a key and without a place wait briefly and get 503; requests with a key are not affected."""
    monkeypatch.setattr(admission, "RUNNING_ANONYMOUS_MAX", 0)
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
    async with connect(hot.url) as wire:
        for method, path in (("GET", "/nothing"), ("POST", "/v1/transfers"), ("GET", "/problems")):
            await wire.send(request(method, path) + hot.get())
            refused(await answered(wire), write=method == "POST")
            assert (await answered(wire)).status == 200


async def test_requests_sent_ahead_are_refused_one_by_one(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection has one running or waiting request, however many it sends, and its answers keep their order."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 0)
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
    keys = [new_key() for _ in range(6)]
    parts = [make(hot, key) for key in keys for make in (post, opening)]
    async with connect(hot.url) as wire:
        await wire.send(b"".join(parts))
        for number in range(len(parts)):
            refused(await answered(wire), write=True)
            assert sum(hot.counts()[2:4]) <= 1, number
        monkeypatch.setattr(admission, "RUNNING_MAX", RUNNING_MAX)
        await wire.send(b"".join(parts))
        assert [(await answered(wire)).status for _ in parts] == [201] * len(parts)


async def test_every_end_gives_its_place_back(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single place, every kind of ended request frees it for the next."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 1)
    monkeypatch.setattr(admission, "RUNNING_WRITES_MAX", 1)
    monkeypatch.setattr(admission, "RUNNING_READS_MAX", 1)
    monkeypatch.setattr(admission, "WAIT_SECONDS", 5.0)
    monkeypatch.setattr("server.http.wire.body.BODY_DEADLINE_SECONDS", 0.05)
    huge = b" " * 65_537
    stranger = request("GET", "/v1/accounts/alice", token="tsk_wrong")
    reading = await hot.service.client("hot", "read")
    ends = [
        (hot.get(), 200),
        (hot.get("nobody"), 404),
        (hot.get("alice", "Cache-Control: no-cache"), 200),
        (hot.get("alice", "If-None-Match: *"), 304),
        (hot.get("alice?min_version=99999999"), 409),
        (hot.get("%"), 404),
        (hot.get("alice", *[f"X-{number}: {'x' * 6_000}" for number in range(3)]), 400),
        (request("GET", "/v1/accounts?limit=x", token=hot.client.token), 400),
        (stranger, 401),
        (request("GET", "/v1/accounts"), 401),
        (hot.post(new_key(), token=reading.token), 403),
        (post(hot, new_key()), 201),
        (hot.post(new_key(), body=b"{"), 400),
        (hot.post("", body=OTHER_BODY), 400),
        (hot.post(new_key(), body=OTHER_BODY.replace(b"bob", b"nobody")), 404),
        (hot.post(new_key(), body=huge), 413),
        (hot.post(new_key(), "Content-Length: 65537", body=None), 413),
        (hot.post(new_key(), "Transfer-Encoding: chunked", body=None) + b"10001\r\n" + huge + b"\r\n0\r\n\r\n", 413),
        (hot.post(new_key(), "Content-Length: 70", body=None) + b"{", 408),
        (hot.post(new_key(), "Transfer-Encoding: chunked", body=None) + b"x\r\n", 400),
    ]
    for data, status in ends:
        async with connect(hot.url) as wire:
            await wire.send(data)
            response = await answered(wire)
            assert response.status == status, response.raw
        await hot.quiet()


async def test_who_is_looked_up_holds_no_place(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes no place while its token is looked up, and requests with known tokens are served."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 1)
    asked, told = asyncio.Event(), asyncio.Event()

    async def authenticate(*_: object) -> None:
        asked.set()
        await told.wait()

    fresh = await hot.service.client("hot")
    monkeypatch.setattr(hot.app.authenticator, "authenticate", authenticate)
    async with connect(hot.url) as wire:
        await wire.send(hot.get(token=fresh.token))
        await asked.wait()
        assert hot.counts() == (0, 0, 0, 0, 0)
        async with connect(hot.url) as known:
            await known.send(hot.get())
            assert (await answered(known)).status == 200
        told.set()
        assert (await answered(wire)).status == 401
