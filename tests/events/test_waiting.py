"""Reads that wait for events: what ends them, what they cost, and how many there may be."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import asyncpg
import pytest

from server.app import App
from server.events import heads
from server.events.feed import Feed
from server.gate import keys
from server.http import streams
from server.store.errors import StoreUnavailableError
from server.store.postgres import Database
from tests.input.wire import Wire, connect, request
from tests.support.client import Answer, Client
from tests.support.events import position_reached, relaying
from tests.support.postgres import administer
from tests.support.service import Service, in_process
from tests.support.waiting import until

# Readers that each wait for another account.
READERS = 300
# Connections opened at a time; more would count as overload.
AT_ONCE = 250
# How many looks at the newest positions the test waits for: a second's worth.
LOOKS = 40


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[Service, Service]]:
    """Two services, like two workers, on the test's own database, and a relay."""
    async with in_process(database_url) as one, in_process(database_url) as other, relaying(database_url):
        yield one, other


@pytest.fixture
async def reader(pair: tuple[Service, Service], ledger: str) -> Client:
    """A client of the first service, in a ledger with `world` and `alice`, whose events it has read."""
    client = await pair[0].client(ledger)
    await client.open("world", floor=None)
    await client.open("alice")
    await until(partial(position_reached, client, 2))
    return client


@pytest.fixture
async def writer(pair: tuple[Service, Service], ledger: str) -> Client:
    """A client of the second service."""
    return await pair[1].client(ledger)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each statement has been used to read."""
    counted: Counter[str] = Counter()
    original = Database.read

    async def read(self: Database, name: str, *arguments: object) -> "list[asyncpg.Record]":
        counted[name] += 1
        return await original(self, name, *arguments)

    looked = Feed.heads

    async def look(self: Feed, ledger_ids: list[int]) -> dict[int, int]:
        counted["feed_positions"] += 1
        return await looked(self, ledger_ids)

    monkeypatch.setattr(Database, "read", read)
    monkeypatch.setattr(Feed, "heads", look)
    return counted


def app_of(service: Service) -> App:
    """Return the app of a service."""
    assert service.app is not None
    return service.app


def positions(answer: Answer) -> tuple[list[int], int]:
    """Return the positions of a page's events, and the position to continue from."""
    assert answer.status == 200, answer
    return [event["position"] for event in answer.json["data"]], answer.json["next_after"]


async def wait_for(service: Service, *asked: Awaitable[Answer]) -> "list[asyncio.Task[Answer]]":
    """Send requests, and return once all of them are waiting."""
    counts = app_of(service).waiting
    before = counts.count
    tasks = [asyncio.ensure_future(one) for one in asked]
    await until(lambda: counts.count == before + len(asked) or any(task.done() for task in tasks))
    assert counts.count == before + len(asked), [task.result() for task in tasks if task.done()]
    return tasks


ENDS: list[Any] = [
    pytest.param("", lambda c: c.transfer("world", "alice", 5), id="a transfer"),
    pytest.param("", lambda c: c.transfer("alice", "world", 5), id="a refusal"),
    pytest.param("", lambda c: c.send("PATCH", "/v1/accounts/alice", {"ceiling": 9}), id="a change"),
    pytest.param(
        "&type=account.closed", lambda c: c.send("PATCH", "/v1/accounts/alice", {"closed": True}), id="a type"
    ),
    pytest.param("&account=alice", lambda c: c.transfer("world", "alice", 5), id="an account that receives"),
    pytest.param("&account=world", lambda c: c.transfer("world", "alice", 5), id="an account that pays"),
    pytest.param("&account=alice&type=hold.created", lambda c: c.transfer("world", "alice", 5, hold=True), id="both"),
]


@pytest.mark.parametrize(("query", "act"), ENDS)
async def test_what_ends_it(
    pair: tuple[Service, Service],
    reader: Client,
    writer: Client,
    query: str,
    act: Callable[[Client], Awaitable[Answer]],
) -> None:
    """A waiting read is answered with another worker's write, once that can be read."""
    [waiting] = await wait_for(pair[0], reader.get(f"/v1/events?after=2&wait=30{query}"))
    await act(writer)
    assert positions(await waiting) == ([3], 3)


async def test_what_is_not_chosen_does_not_end_it(
    pair: tuple[Service, Service], reader: Client, writer: Client, reads: Counter[str]
) -> None:
    """Events that do not match cause no read for any waiter, and its answer continues after them."""
    queries = [f"account=account-{number}" for number in range(READERS)] + ["type=account.closed", "account=alice"]
    tasks = await wait_for(pair[0], *[reader.get(f"/v1/events?after=2&wait=30&{query}") for query in queries])
    reads.clear()
    for position in (3, 4):
        await writer.open(f"other-{position}")
        await until(partial(position_reached, reader, position))
        await until(partial(all_wait_at, pair[0], position, len(tasks)))
    assert reads["event_page_of_account"] == 0
    await writer.transfer("world", "alice", 5)
    assert positions(await tasks[-1]) == ([5], 5)
    # One look for all, and the read for the matching waiter; the test itself has polled too.
    assert reads["event_page_of_account"] <= 2
    assert waiting_at(pair[0], 5) == len(tasks) - 1
    # The remaining waiters are told where to continue.
    app_of(pair[0]).readings.heads.drain()
    assert {positions(await task)[1] for task in tasks[:-1]} == {5}


def all_wait_at(service: Service, position: int, number: int) -> bool:
    """Return whether this many requests wait at a position."""
    return waiting_at(service, position) == number


def waiting_at(service: Service, position: int) -> int:
    """Return how many requests wait at a position."""
    ledgers = app_of(service).readings.heads._ledgers.values()
    return sum(waiter.position == position for ledger in ledgers for waiter in ledger.waiters)


async def test_more_news_than_are_told_apart_are_read_by_each(
    pair: tuple[Service, Service], reader: Client, writer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If too much happens at once to tell waiters apart, each of them reads; one that finds nothing keeps waiting."""
    monkeypatch.setattr(heads, "SHARED_MAX", 1)
    asked = [reader.get(f"/v1/events?after=2&wait=30&account={name}") for name in ("nobody", "c")]
    left, found = await wait_for(pair[0], *asked)
    await writer.post("/v1/accounts/bulk", {"accounts": [{"id": name, "currency": "EUR"} for name in "abc"]})
    assert positions(await found) == ([5], 5)
    await until(partial(all_wait_at, pair[0], 5, 1))
    assert not left.done()
    app_of(pair[0]).readings.heads.drain()
    assert positions(await left) == ([], 5)


async def test_its_key_is_revoked(
    pair: tuple[Service, Service], reader: Client, writer: Client, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting reader whose key was revoked gets no event; others do."""
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0.0)
    doomed = await pair[0].client(ledger)
    assert doomed.token is not None
    path = "/v1/events?after=2&wait=30"
    ended, told = await wait_for(pair[0], doomed.get(path), reader.get(path))
    assert (await writer.send("DELETE", f"/v1/api-keys/{doomed.token.split('_')[2]}")).status == 200
    await writer.open("bob")
    assert positions(await ended)[0] == []
    assert positions(await told) == ([3], 3)


async def test_nothing_came(pair: tuple[Service, Service], reader: Client) -> None:
    """After the requested wait the answer is an empty page, which does not count as slow, and the looks stop."""
    durations = app_of(pair[0]).tallies.requests["GET", "/v1/events", 200]
    before = durations.total
    assert positions(await reader.get("/v1/events?after=2&wait=1")) == ([], 2)
    assert durations.total - before < 1
    assert positions(await reader.get("/v1/events?after=2")) == ([], 2)
    head = await reader.send("HEAD", "/v1/events?after=2&wait=30")
    assert (head.status, head.body) == (200, b"")
    await until(lambda: app_of(pair[0]).readings.heads._looking is None)
    assert app_of(pair[0]).waiting.count == 0


async def test_a_crowd_costs_nearly_nothing(
    pair: tuple[Service, Service], reader: Client, writer: Client, reads: Counter[str]
) -> None:
    """Five thousand wait without places or connections, and share looks and reads; one more is refused."""
    app = app_of(pair[0])
    asked = request("GET", "/v1/events?after=2&wait=30", token=reader.token)
    async with AsyncExitStack() as stack:
        wires: list[Wire] = []
        while len(wires) < streams.WAITING_OF_LEDGER_MAX:
            for _ in range(AT_ONCE):
                wires.append(await stack.enter_async_context(connect(reader.url)))
                await wires[-1].send(asked)
            await until(lambda: app.waiting.count == len(wires))
        # If others already wait, a later reader needs no read.
        assert reads["event_page"] <= AT_ONCE
        assert (await reader.get("/v1/events?after=2&wait=30")).status == 503
        admission = app.server.pipeline.admission
        assert (admission.reads, admission.waiting) == (0, (0, 0))
        reads.clear()
        await until(lambda: reads["feed_positions"] >= LOOKS)
        assert set(reads) == {"feed_positions"}
        reads.clear()
        await writer.transfer("world", "alice", 5)
        for wire in wires:
            response = await wire.receive()
            assert response is not None
            assert [event["position"] for event in response.json["data"]] == [3]
        assert reads["event_page"] <= 2
    assert app.waiting.count == 0
    assert len(app.server.pipeline.running) == 0


async def test_there_may_be_so_many(
    pair: tuple[Service, Service], reader: Client, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting reads of a ledger and of all ledgers are limited; one more is a 503, unless it need not wait."""
    other = await pair[0].client(f"{ledger}-other")
    monkeypatch.setattr(streams, "WAITING_OF_LEDGER_MAX", 1)
    [first] = await wait_for(pair[0], reader.get("/v1/events?after=2&wait=30"))
    refused = await reader.get("/v1/events?after=2&wait=30")
    assert (refused.status, refused.code) == (503, "overloaded")
    assert refused.json["detail"].startswith("This ledger has as many requests waiting for events")
    assert positions(await reader.get("/v1/events?after=1&wait=30")) == ([2], 2)
    [second] = await wait_for(pair[0], other.get("/v1/events?wait=30"))
    monkeypatch.setattr(streams, "WAITING_MAX", 2)
    refused = await (await pair[0].client(f"{ledger}-third")).get("/v1/events?wait=30")
    assert (refused.status, refused.code) == (503, "overloaded")
    assert refused.json["detail"].startswith("The server has as many")
    await reader.open("bob")
    await other.open("bob")
    assert [positions(await task) for task in (first, second)] == [([3], 3), ([1], 1)]


@pytest.mark.parametrize("closing", [False, True], ids=["kept alive", "to be closed"])
async def test_the_client_goes_away(pair: tuple[Service, Service], reader: Client, closing: bool) -> None:
    """The wait ends when the client disconnects."""
    app = app_of(pair[0])
    lines = ["Connection: close"] if closing else []
    async with connect(reader.url) as wire:
        await wire.send(request("GET", "/v1/events?after=2&wait=30", *lines, token=reader.token))
        await until(lambda: app.waiting.count == 1)
    await until(lambda: app.waiting.count == 0)
    await until(lambda: len(app.server.pipeline.running) == 0)
    await until(lambda: app.readings.heads._looking is None)


@pytest.mark.parametrize("closing", [False, True], ids=["kept alive", "to be closed"])
async def test_the_worker_ends(pair: tuple[Service, Service], reader: Client, closing: bool) -> None:
    """When the worker stops, waiting and new reads are answered at once, and their connections close."""
    app = app_of(pair[0])
    lines = ["Connection: close"] if closing else []
    asked = request("GET", "/v1/events?after=2&wait=30", *lines, token=reader.token)
    async with connect(reader.url) as wire, connect(reader.url) as late:
        await wire.send(asked)
        await until(lambda: app.waiting.count == 1)
        app.server.open_connections.draining = True
        app.readings.heads.drain()
        await late.send(asked)
        for one in (wire, late):
            [response] = await one.receive_all()
            assert response.json == {"data": [], "next_after": 2}
            assert response.headers["connection"] == "close"


async def test_an_older_database_is_told(pair: tuple[Service, Service], reader: Client, postgres_url: str) -> None:
    """After a restore from an older copy, waiting readers get a 409 instead of waiting for ever."""
    queries = ("", "&account=alice")
    tasks = await wait_for(pair[0], *[reader.get(f"/v1/events?after=2&wait=30{query}") for query in queries])
    await administer(pair[0].database_url, "UPDATE tallystick.feed_heads SET position = 1")
    for task in tasks:
        answer = await task
        assert (answer.status, answer.code) == (409, "position_not_reached")
        assert answer.json["detail"] == "The newest position of this ledger is 1."


async def test_the_database_is_away(
    pair: tuple[Service, Service], reader: Client, writer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed looks are repeated: a waiter keeps waiting, and is woken once the database is back."""
    monkeypatch.setattr(heads, "AWAY_SECONDS", 0.01)
    failures = 0
    original = Feed.heads

    async def fail(self: Feed, ledger_ids: list[int]) -> dict[int, int]:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise StoreUnavailableError("away")
        return await original(self, ledger_ids)

    monkeypatch.setattr(Feed, "heads", fail)
    [waiting] = await wait_for(pair[0], reader.get("/v1/events?after=2&wait=30"))
    await writer.open("bob")
    assert positions(await waiting) == ([3], 3)
    assert failures == 3
