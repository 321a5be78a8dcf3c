"""
What the client repeats and what it does not, against a server that answers as each test says.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from loadtests import client
from loadtests.client import BROKEN, Answer, Client, Connection, NoAnswer, UnexpectedAnswer

Step = Callable[[web.Request], web.Response]


def created(_: web.Request) -> web.Response:
    return web.Response(status=201, body=b'{"id": "one"}')


def dropped(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def problem(status: int, code: str, retry_after: str = "0") -> Step:
    def step(_: web.Request) -> web.Response:
        body = {"code": code, "detail": "as it is"}
        return web.json_response(body, status=status, headers={"Retry-After": retry_after})

    return step


class Script:
    """
    A server that takes one step for each request and remembers what it was sent.
    """

    def __init__(self, *steps: Step) -> None:
        self._steps = iter(steps)
        self.sent: list[tuple[str, bytes]] = []

    async def _answer(self, request: web.Request) -> web.Response:
        self.sent.append((request.headers.get("Idempotency-Key", ""), await request.read()))
        return next(self._steps)(request)

    @asynccontextmanager
    async def called(self) -> AsyncIterator[Client]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        async with TestServer(app) as server:
            url = str(server.make_url("/"))
            async with Client(url, "made-up", connections_max=2) as ledger:
                yield ledger


async def test_the_same_request_is_sent_until_it_is_answered() -> None:
    """
    429, 503, a request still running and a lost connection: the same key and bytes once more.
    """
    script = Script(
        problem(503, "overloaded"),
        problem(429, "rate_limited"),
        problem(409, "idempotency_key_in_use"),
        dropped,
        created,
    )
    async with script.called() as ledger:
        answer = await ledger.call("POST", "/v1/transfers", {"amount": 5}, "k1")
    assert (answer.status, answer.body) == (201, b'{"id": "one"}')
    assert script.sent == [("k1", b'{"amount":5}')] * 5


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (404, "account_not_found"),
        (409, "account_closed"),
        (422, "idempotency_key_reused"),
        (500, "internal_error"),
    ],
)
async def test_a_refusal_ends_the_call(status: int, code: str) -> None:
    """
    Any other answer is not asked for twice, and the error says status and code.
    """
    script = Script(problem(status, code))
    async with script.called() as ledger:
        with pytest.raises(UnexpectedAnswer, match=f"with key k1 answered {status} {code}: as it"):
            await ledger.call("POST", "/v1/transfers", {}, "k1")
    assert len(script.sent) == 1


async def test_retry_after_is_honoured() -> None:
    """
    The next attempt comes no sooner than the answer asked for.
    """
    script = Script(problem(503, "overloaded", retry_after="1"), created)
    async with script.called() as ledger:
        started = time.monotonic()
        await ledger.call("POST", "/v1/transfers", {}, "k1")
    assert time.monotonic() - started >= 1.0


async def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When its time is up a call says what the last refusal was.
    """
    monkeypatch.setattr(client, "CALL_SECONDS_MAX", 0.1)
    script = Script(*[problem(503, "overloaded")] * 9)
    async with script.called() as ledger:
        with pytest.raises(match="503 overloaded"):
            await ledger.call("POST", "/v1/transfers", {}, "k1")
    assert 1 <= len(script.sent) < 9


async def test_a_wait_beyond_the_limit_is_not_begun() -> None:
    """
    A Retry-After longer than a call may take ends the call at once.
    """
    script = Script(problem(429, "rate_limited", retry_after="3600"))
    async with script.called() as ledger:
        with pytest.raises(match="429 rate_limited"):
            await ledger.call("POST", "/v1/transfers", {}, "k1")


async def test_a_refused_item_is_named() -> None:
    """
    The error of a bulk says which of its items was refused.
    """

    def results(_: web.Request) -> web.Response:
        body = b'{"results": [{"status": 409, "replayed": false, "problem": {"code": "nope"}}]}'
        return web.Response(body=body)

    async with Script(results).called() as ledger:
        with pytest.raises(UnexpectedAnswer, match="for key k1 answered 409 nope"):
            await ledger.call("POST", "/v1/transfers/bulk", {}, items=["key k1"])


async def test_a_bulk_is_sent_until_no_item_is_to_come_later() -> None:
    """
    An item that was refused for now has the whole bulk sent again: what is there already is replayed.
    """

    def results(status: int) -> Step:
        return lambda _: web.json_response({"results": [{"status": 201}, {"status": status}]})

    script = Script(results(503), results(201))
    async with script.called() as ledger:
        await ledger.call("POST", "/v1/accounts/bulk", {}, items=["a", "b"])
    assert len(script.sent) == 2


async def test_a_connection_that_was_not_answered_is_not_used_again() -> None:
    """
    Whoever hangs up hears nothing of it later, and the next request goes out on another connection.
    """
    hold = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await hold.wait()
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, Client(str(server.make_url("/")), "made-up", 1) as ledger:
        with pytest.raises(NoAnswer, match="TimeoutError"):
            await ledger.ask("GET", "/slow", seconds_max=0.01)
        assert (await ledger.ask("GET", "/fast")).body == b"/fast"
        hold.set()


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    """
    An answer that ends its connection is taken, and the next request goes out on another one.
    """

    def last(_: web.Request) -> web.Response:
        return web.Response(text="bye", headers={"Connection": "close"})

    async with Script(last, last).called() as ledger:
        assert [(await ledger.ask("GET", "/")).body for _ in range(2)] == [b"bye"] * 2


async def test_pages_are_followed() -> None:
    """
    A cursor is sent back as it came, whatever characters it has.
    """
    cursors = []

    def page(request: web.Request) -> web.Response:
        cursors.append(request.query.get("cursor"))
        account = {"id": f"a{len(cursors)}", "currency": "CZK", "balance": 0, "version": 0}
        last = len(cursors) == 2
        return web.json_response({"data": [account], "next_cursor": None if last else "a+/=&b"})

    async with Script(page, page).called() as ledger:
        names = [account["id"] async for account in ledger.pages("/v1/accounts")]
    assert names == ["a1", "a2"]
    assert cursors == [None, "a+/=&b"]


ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 5\r\n\r\nhello"


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def busy() -> tuple[Connection, _Transport, list[tuple[int, bytes, int]]]:
    """Return a connection with a request under way, its transport, and what it will tell."""
    answers: list[tuple[int, bytes, int]] = []
    connection = Connection(lambda _, *answer: answers.append(answer), lambda _: None)
    transport = _Transport()
    connection.connection_made(transport)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", 1, 0.0)
    return connection, transport, answers


@given(st.lists(st.integers(0, len(ANSWER)), max_size=6))
def test_an_answer_may_come_in_pieces(cuts: list[int]) -> None:
    """However an answer is cut, it is told once, when it is whole."""
    connection, transport, answers = busy()
    places = sorted({0, *cuts, len(ANSWER)})
    for start, end in pairwise(places):
        assert answers == []
        connection.data_received(ANSWER[start:end])
    [(status, received, end)] = answers
    assert (status, Answer(status, received[:end], b"").retry_after, received[end + 2 :]) == (503, 2, b"hello")
    assert not transport.aborted


@pytest.mark.parametrize("data", [b"HTTP/1.0 200 OK\r\n\r\n", b"nonsense\r\n\r\n", ANSWER + b"HTTP/1.1 200 OK\r\n\r\n"])
def test_what_is_no_answer_ends_the_connection(data: bytes) -> None:
    connection, transport, answers = busy()
    connection.data_received(data)
    connection.connection_lost(None)
    assert transport.aborted
    assert answers == [(BROKEN, b"", 0)]
