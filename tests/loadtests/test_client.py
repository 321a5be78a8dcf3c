"""
What the client repeats and what it does not, against a server that answers as each test says.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtests import client
from loadtests.answers import GaveUp, UnexpectedAnswer
from loadtests.client import LedgerClient

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
    async def called(self) -> AsyncIterator[LedgerClient]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        async with TestServer(app) as server:
            url = str(server.make_url("/"))
            async with LedgerClient(url, "made-up", connections_max=2) as ledger:
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
        answer = await ledger.post_transfer("k1", {"amount": 5})
    assert (answer.status, answer.body, answer.repeated) == (201, b'{"id": "one"}', True)
    assert script.sent == [("k1", b'{"amount":5}')] * 5
    assert ledger.repeats == 4
    assert ledger.in_flight == 0


async def test_a_first_answer_is_not_called_repeated() -> None:
    """
    Without a failed attempt nothing was repeated.
    """
    async with Script(created).called() as ledger:
        answer = await ledger.post_transfer("k1", {})
    assert not answer.repeated
    assert ledger.repeats == 0


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
            await ledger.post_transfer("k1", {})
    assert len(script.sent) == 1


async def test_retry_after_is_honoured() -> None:
    """
    The next attempt comes no sooner than the answer asked for.
    """
    script = Script(problem(503, "overloaded", retry_after="1"), created)
    async with script.called() as ledger:
        started = time.monotonic()
        await ledger.post_transfer("k1", {})
    assert time.monotonic() - started >= 1.0


async def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the last attempt the error says what the last refusal was.
    """
    monkeypatch.setattr(client, "ATTEMPTS_MAX", 3)
    script = Script(*[problem(503, "overloaded")] * 9)
    async with script.called() as ledger:
        with pytest.raises(GaveUp, match="503 overloaded"):
            await ledger.post_transfer("k1", {})
    assert len(script.sent) == 3


async def test_a_wait_beyond_the_limit_is_not_begun() -> None:
    """
    A Retry-After longer than a call may take ends the call at once.
    """
    script = Script(problem(429, "rate_limited", retry_after="3600"))
    async with script.called() as ledger:
        with pytest.raises(GaveUp, match="429 rate_limited"):
            await ledger.post_transfer("k1", {})


async def test_a_set_is_answered_item_by_item() -> None:
    """
    Each transfer's bytes come out of the set as they stand in it.
    """

    def results(_: web.Request) -> web.Response:
        body = (
            b'{"results": [{"status": 201, "replayed": false, "transfer": {"id":  "a"}},'
            b' {"status": 201, "replayed": true, "transfer": {"id": "b"}}]}'
        )
        return web.Response(body=body)

    async with Script(results).called() as ledger:
        one, other = await ledger.post_set([("k1", {"amount": 1}), ("k2", {"amount": 2})])
    assert (one.body, one.replayed) == (b'{"id":  "a"}', False)
    assert (other.body, other.replayed) == (b'{"id": "b"}', True)


async def test_a_refused_item_names_its_key() -> None:
    """
    The error of a set says which of its transfers was refused.
    """

    def results(_: web.Request) -> web.Response:
        body = b'{"results": [{"status": 409, "replayed": false, "problem": {"code": "nope"}}]}'
        return web.Response(body=body)

    async with Script(results).called() as ledger:
        with pytest.raises(UnexpectedAnswer, match="for key k1 answered 409 nope"):
            await ledger.post_set([("k1", {})])


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
        names = [account.id async for account in ledger.accounts()]
    assert names == ["a1", "a2"]
    assert cursors == [None, "a+/=&b"]
