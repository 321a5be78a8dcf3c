"""
Connections of the client and what becomes of them, with a server that answers as each test says.
"""

import asyncio
from itertools import pairwise

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from loadtests.client import BROKEN, Client, Connection
from loadtests.history.recorder import UNKNOWN, Heard


async def test_a_connection_that_was_not_answered_is_not_used_again() -> None:
    """
    After a timeout, the client never receives the late answer, and the next request uses a new connection.
    """
    hold = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await hold.wait()
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, Client(str(server.make_url("/")), "made-up", 1) as ledger:
        heard = await ledger.ask("GET", "/slow", seconds_max=0.01)
        assert (heard.status, heard.outcome, "TimeoutError" in heard.response) == (BROKEN, UNKNOWN, True)
        assert (await ledger.ask("GET", "/fast")).response == "/fast"
        hold.set()


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    """
    An answer that closes its connection is accepted, and the next request uses a new one.
    """

    async def last(_: web.Request) -> web.Response:
        return web.Response(text="bye", headers={"Connection": "close"})

    app = web.Application()
    app.router.add_get("/", last)
    async with TestServer(app) as server, Client(str(server.make_url("/")), "made-up", 1) as ledger:
        assert [(await ledger.ask("GET", "/")).response for _ in range(2)] == ["bye"] * 2


async def test_what_the_head_of_an_answer_says_is_told() -> None:
    """
    The client reports whether an answer is a replay and how long to wait; a Retry-After that is a date is left out.
    """
    heads = iter(
        [{"Retry-After": "7"}, {"Idempotent-Replayed": "true", "Retry-After": "Tue, 01 Dec 2026 00:00:00 GMT"}]
    )

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=409, headers=next(heads))

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, Client(str(server.make_url("/")), "made-up", 1) as ledger:
        told = [await ledger.ask("GET", "/") for _ in range(2)]
    assert told == [Heard(409, "", False, "fail", 7), Heard(409, "", True, "fail", 0)]


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
    """Return a connection with a request under way, its transport, and the list of its answers."""
    answers: list[tuple[int, bytes, int]] = []
    connection = Connection(lambda _, *answer: answers.append(answer), lambda _: None)
    transport = _Transport()
    connection.connection_made(transport)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", 1, 0.0)
    return connection, transport, answers


@given(st.lists(st.integers(0, len(ANSWER)), max_size=6))
def test_an_answer_may_come_in_pieces(cuts: list[int]) -> None:
    """An answer that arrives in pieces is reported once, when it is complete."""
    connection, transport, answers = busy()
    places = sorted({0, *cuts, len(ANSWER)})
    for start, end in pairwise(places):
        assert answers == []
        connection.data_received(ANSWER[start:end])
    [(status, received, end)] = answers
    assert (status, received[:end], received[end + 2 :]) == (503, ANSWER[:-7], b"hello")
    assert not transport.aborted


@pytest.mark.parametrize("data", [b"HTTP/1.0 200 OK\r\n\r\n", b"nonsense\r\n\r\n", ANSWER + b"HTTP/1.1 200 OK\r\n\r\n"])
def test_what_is_no_answer_ends_the_connection(data: bytes) -> None:
    connection, transport, answers = busy()
    connection.data_received(data)
    connection.connection_lost(None)
    assert transport.aborted
    assert answers == [(BROKEN, b"", 0)]
