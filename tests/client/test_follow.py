"""Following events: each comes once and in order, however the stream ends."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from tallystick_client import ProblemError, TallystickError
from tallystick_client.following import LINE_BYTES_MAX, Lines
from tests.client.calling import Caller, calling
from tests.client.lossy import Lossy, lossy
from tests.support.client import Client
from tests.support.events import position_reached
from tests.support.service import Service
from tests.support.waiting import until

PAYMENTS = 30


@pytest.fixture
async def books(told: Service, ledger: str) -> Client:
    """A client of a ledger whose first two events are its accounts."""
    client = await told.client(ledger)
    await client.open("world", floor=None)
    await client.open("alice")
    return client


@pytest.fixture
async def proxy(told: Service) -> AsyncIterator[Lossy]:
    """A proxy before the service."""
    async with lossy(told.url, told.session) as proxy:
        yield proxy


@pytest.fixture
async def caller(kind: str, books: Client, proxy: Lossy) -> AsyncIterator[Caller]:
    """A client of either kind, for that ledger behind the proxy."""
    assert books.token is not None
    async with calling(kind, proxy.url, books.token, deadline_seconds=10.0) as caller:
        yield caller


# What the proxy does with the first GETs, and with all later ones.
@pytest.mark.parametrize(
    ("gets", "rest"),
    [
        pytest.param([], "pass", id="well"),
        pytest.param([f"cut {size}" for size in (1, 500, 1_500, 3_000, 40)], "pass", id="cut within events"),
        pytest.param(["lose request", "502", "lose answer", "503", "429", "half"], "pass", id="faults of all kinds"),
        pytest.param(["502", "pass", "502", "pass", "502", "pass"], "pass", id="no streams"),
    ],
)
async def test_each_event_comes_once(gets: list[str], rest: str, caller: Caller, proxy: Lossy, books: Client) -> None:
    """Positions follow one another without a gap, including those of payments made during the read."""
    proxy.script(gets=gets, rest_of_gets=rest)
    reading = asyncio.create_task(caller.take(lambda c: c.events.follow(), PAYMENTS + 2))
    for number in range(PAYMENTS):
        await books.transfer("world", "alice", 1 + number)
    events = await asyncio.wait_for(reading, 60)
    assert [event.position for event in events] == list(range(1, PAYMENTS + 3))
    assert [event.name for event in events[:3]] == ["account.created", "account.created", "transfer.posted"]
    assert (events[0].account.id, events[0].transfer) == ("world", None)
    assert [event.transfer.amount for event in events[2:]] == list(range(1, PAYMENTS + 1))
    # A new follow starts after the given position, with the given filters.
    some = await caller.take(lambda c: c.events.follow(after=2, types=["transfer.posted"], account="alice"), 2)
    assert some == events[2:4]


async def test_what_ends_it(caller: Caller, proxy: Lossy, kind: str) -> None:
    """An unknown position fails at once; an unreachable server fails after the allowed outage."""
    with pytest.raises(ProblemError) as caught:
        await caller.take(lambda c: c.events.follow(after=1_000))
    assert caught.value.code == "position_not_reached"
    proxy.script(rest_of_gets="lose request")
    with pytest.raises(TallystickError, match="RemoteProtocolError"):
        await caller.take(lambda c: c.events.follow(outage_seconds=0.3))


async def test_pages(caller: Caller, books: Client) -> None:
    """A page waits for events, and gives the position to continue from."""
    first = await caller(lambda c: c.events.list(wait_seconds=20))
    assert first.data[0].name == "account.created"
    await until(partial(position_reached, books, 2))
    waiting = asyncio.create_task(caller(lambda c: c.events.list(after=2, wait_seconds=20, types=["transfer.posted"])))
    await books.transfer("world", "alice", 9)
    page = await asyncio.wait_for(waiting, 20)
    assert ([event.transfer.amount for event in page.data], page.next_after) == ([9], 3)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([b"retry: 500\n\n: hello\n\nid: 7\n\n"], [7]),
        ([b"id: 7\r\n", b"\r", b"\n"], [7]),
        ([b": waiting\nid: 8\n\nid: 9\n"], [8]),
    ],
)
def test_lines(pieces: list[bytes], found: list[Any]) -> None:
    """Lines may arrive in any pieces; an incomplete event does not count."""
    lines = Lines()
    assert [each for piece in pieces for each in lines.take(piece)] == found


def test_lines_are_bounded() -> None:
    """An endless line is refused."""
    lines = Lines()
    assert lines.take(b"x" * LINE_BYTES_MAX) == []
    with pytest.raises(ValueError, match="too long"):
        lines.take(b"x")
