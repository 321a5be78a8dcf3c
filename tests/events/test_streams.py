"""Event streams: their wire format, how they are resumed, what ends them, and what a slow reader costs."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from server.events.feed import Feed, FeedPage
from server.gate import keys
from server.http import streams
from server.http.handlers import event_streams
from server.store.errors import StoreUnavailableError
from tests.api.test_roles import revoke
from tests.input.test_streamed import tight
from tests.input.wire import connect, parse_head, request
from tests.support.client import Client
from tests.support.events import EventSource, position_reached, relaying, streaming
from tests.support.postgres import administer
from tests.support.service import Service, in_process
from tests.support.waiting import WAIT_SECONDS, until

PATH = "/v1/events/stream"


@pytest.fixture
async def own(database_url: str) -> AsyncIterator[Service]:
    """A service with its own database and a relay; no stream is left when the test ends."""
    async with in_process(database_url) as service, relaying(database_url):
        yield service
        await until(lambda: counts(service).count == 0)


@pytest.fixture
async def client(own: Service, ledger: str) -> Client:
    """A client of a ledger with the accounts `world` and `alice`, whose events can be read."""
    client = await own.client(ledger)
    await client.open("world", floor=None)
    await client.open("alice")
    await until(partial(position_reached, client, 2))
    return client


def counts(service: Service) -> streams.EventStreams:
    """Return the event streams of a service."""
    assert service.app is not None
    return service.app.event_streams


async def test_what_is_sent(client: Client, own: Service, ledger: str) -> None:
    """Past events come first and new ones as they happen, each with position, type and envelope."""
    async with streaming(client, "?after=1") as stream:
        [old] = await stream.take(1)
        await client.transfer("world", "alice", 5)
        [new] = await stream.take(1)
        assert 250 <= stream.source.retry <= 1_250
        headers = stream.response.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
    assert "RateLimit" in headers
    assert "X-Request-Id" in headers
    assert (old.type, old.id, old.data["subject"]) == ("account.created", "2", "alice")
    assert (new.type, new.id, new.data["data"]["amount"]) == ("transfer.posted", "3", 5)
    pages = (await client.get("/v1/events?after=1")).json["data"]
    assert [old.data, new.data] == pages


async def test_by_the_letter(client: Client, own: Service) -> None:
    """The wire has a retry line, then blocks of id, type and one data line; HTTP/1.0 gets no chunks."""
    async with connect(own.url) as wire:
        await wire.send(request("GET", PATH, token=client.token).replace(b"HTTP/1.1", b"HTTP/1.0"))
        top = await wire.reader.readuntil(b"\r\n\r\n")
        status, headers = parse_head(top)
        assert (status, headers["connection"]) == (200, "close")
        assert not {"transfer-encoding", "content-length"} & set(headers)
        assert (await wire.reader.readline()).startswith(b"retry: ")
        assert await wire.reader.readline() == b"\n"
        for position in (b"1", b"2"):
            assert await wire.reader.readline() == b"id: " + position + b"\n"
            assert await wire.reader.readline() == b"event: account.created\n"
            assert (await wire.reader.readline()).startswith(b'data: {"specversion":"1.0",')
            assert await wire.reader.readline() == b"\n"


async def test_head_gets_the_head(client: Client, own: Service) -> None:
    """HEAD has the headers of GET, and opens no stream."""
    answer = await client.send("HEAD", PATH)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert counts(own).count == 0


@pytest.mark.parametrize(
    ("query", "last", "expected"),
    [
        pytest.param("", "", ["1", "2", "3"], id="from the beginning"),
        pytest.param("?after=1", "", ["2", "3"], id="behind a position"),
        pytest.param("?after=1", "2", ["3"], id="behind the last one that came, whatever the address says"),
        pytest.param("", "0", ["1", "2", "3"], id="behind nothing"),
        pytest.param("?account=alice", "1", ["2", "3"], id="of an account"),
        pytest.param("?type=transfer.posted,account.closed", "", ["3"], id="of types"),
    ],
)
async def test_where_it_begins(client: Client, query: str, last: str, expected: list[str]) -> None:
    """A client that reconnects sends the id of its last event, and continues after it."""
    await client.transfer("world", "alice", 5)
    async with streaming(client, query, EventSource(last)) as stream:
        assert [sent.id for sent in await stream.take(len(expected))] == expected
    # The last id is that of the last event sent.
    assert stream.source.last_id == "3"


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ("", (400, "invalid_request")),
        ("x", (400, "invalid_request")),
        ("-1", (400, "invalid_request")),
        ("9" * 30, (400, "invalid_request")),
        ("3", (409, "position_not_reached")),
    ],
)
async def test_what_cannot_be_resumed(client: Client, last: str, outcome: tuple[int, str]) -> None:
    """A malformed last event id is a 400, and one that the ledger has not reached is a 409: nothing is skipped."""
    answer = await client.send("GET", PATH, headers={"Last-Event-ID": last})
    assert (answer.status, answer.code) == outcome


async def test_amounts_are_strings_where_that_is_asked_for(client: Client) -> None:
    """Amounts in events are strings on request; positions stay numbers."""
    await client.transfer("world", "alice", 5)
    accept = "text/event-stream, application/json; amounts=string"
    async with streaming(client, "?after=2", Accept=accept) as stream:
        [sent] = await stream.take(1)
    assert (sent.data["data"]["amount"], sent.data["position"]) == ("5", 3)


async def test_silence_is_broken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no event matches, a comment is sent with the position passed, from which the client can resume."""
    monkeypatch.setattr(event_streams, "SILENCE_SECONDS", 0.02)
    async with streaming(client, "?type=account.closed") as stream:

        async def comments(position: str) -> None:
            while stream.source.last_id != position or stream.source.comments < 2:
                assert stream.source.take((await stream.response.content.readline()).decode().rstrip("\n")) is None

        await asyncio.wait_for(comments("2"), WAIT_SECONDS)
        await client.open("bob")
        await asyncio.wait_for(comments("3"), WAIT_SECONDS)


async def test_there_may_be_so_many(client: Client, own: Service, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams of a ledger and of all ledgers are limited; one more is a 503."""
    other = await own.client(f"{ledger}-other")
    monkeypatch.setattr(streams, "EVENT_STREAMS_OF_LEDGER_MAX", 1)
    async with streaming(client):
        refused = await client.get(PATH)
        assert (refused.status, refused.code) == (503, "overloaded")
        assert refused.json["detail"].startswith("This ledger has as many streams of events")
        async with streaming(other):
            monkeypatch.setattr(streams, "EVENT_STREAMS_MAX", 2)
            refused = await (await own.client(f"{ledger}-third")).get(PATH)
            assert (refused.status, refused.code) == (503, "overloaded")
            assert refused.json["detail"].startswith("The server has as many")


@pytest.mark.parametrize("closing", [False, True], ids=["kept alive", "to be closed"])
async def test_the_worker_ends(client: Client, own: Service, closing: bool) -> None:
    """When the worker stops, a stream ends cleanly after everything sent, and its connection closes."""
    app = own.app
    assert app is not None
    lines = ["Connection: close"] if closing else []
    async with connect(own.url) as wire:
        await wire.send(request("GET", f"{PATH}?type=account.closed", *lines, token=client.token))
        await until(lambda: app.event_streams.count == 1)
        app.server.open_connections.draining = True
        app.readings.heads.drain()
        [response] = await wire.receive_all()
    # The position passed is sent at the end.
    assert response.body.endswith(b"\n\nid: 2\n\n")


async def test_it_lives_so_long(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its lifetime a stream ends cleanly, and a client that reconnects continues."""
    monkeypatch.setattr(event_streams, "LIFE_SECONDS", (0.1, 0.1))
    source = EventSource()
    found = []
    for number in range(3):
        async with streaming(client, source=source) as stream:
            found += await stream.rest()
        await client.open(f"late-{number}")
    assert [sent.id for sent in found] == ["1", "2", "3", "4"]


async def test_its_key_is_revoked(client: Client, own: Service, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose key was revoked ends before the next event; other streams continue."""
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0.0)
    doomed = await own.client(ledger, "read")
    async with streaming(doomed) as ending, streaming(client) as staying:
        await ending.take(2)
        assert doomed.token is not None
        await revoke(own, doomed.token)
        await client.open("bob")
        assert await asyncio.wait_for(ending.rest(), WAIT_SECONDS) == []
        assert [sent.id for sent in await staying.take(3)] == ["1", "2", "3"]


async def test_an_older_database_is_told(client: Client, own: Service) -> None:
    """A stream ends when an older copy of its database is restored, and a reconnecting client gets a 409."""
    async with streaming(client) as stream:
        await stream.take(2)
        await administer(own.database_url, "UPDATE tallystick.feed_heads SET position = 1")
        assert await asyncio.wait_for(stream.rest(), WAIT_SECONDS) == []
    answer = await client.send("GET", PATH, headers={"Last-Event-ID": stream.source.last_id})
    assert (answer.status, answer.code) == (409, "position_not_reached")


async def test_the_database_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream outlives a database outage and loses nothing: a browser would not reconnect after a 503."""
    monkeypatch.setattr(event_streams, "AWAY_SECONDS", 0.01)
    failures = 0
    original = Feed.page

    async def fail(self: Feed, *arguments: int, **chosen: object) -> FeedPage:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise StoreUnavailableError("away")
        return await original(self, *arguments, **chosen)  # type: ignore[arg-type]  # passed on unchanged

    async with streaming(client) as stream:
        await stream.take(2)
        monkeypatch.setattr(Feed, "page", fail)
        await client.open("bob")
        [sent] = await stream.take(1)
    assert (sent.id, failures) == ("3", 3)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_the_client_goes_away(
    client: Client, own: Service, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream ends when its client disconnects, and no error is logged."""
    async with connect(own.url) as wire:
        await wire.send(request("GET", PATH, token=client.token))
        await until(lambda: counts(own).count == 1)
        if reset:
            wire.writer.transport.abort()
    await until(lambda: counts(own).count == 0)
    assert own.app is not None
    pipeline = own.app.server.pipeline
    await until(lambda: len(pipeline.running) == 0)
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_who_reads_slowly(client: Client, own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a client that does not read, only a few pages are read; then it gets everything, once and in order."""
    text = "x" * 500
    for batch in range(4):
        items = [
            {"id": f"large-{batch}-{n}", "currency": "EUR", "metadata": {"a": text, "b": text}} for n in range(500)
        ]
        assert (await client.post("/v1/accounts/bulk", {"accounts": items})).status == 200
    total = 2 + 4 * 500
    await until(partial(position_reached, client, total))
    read = 0
    original = Feed.page

    async def count(self: Feed, *arguments: int, **chosen: object) -> FeedPage:
        nonlocal read
        page = await original(self, *arguments, **chosen)  # type: ignore[arg-type]  # passed on unchanged
        read += len(page.events)
        return page

    monkeypatch.setattr(Feed, "page", count)
    async with tight(own) as wire:
        await wire.send(request("GET", PATH, token=client.token))
        assert own.app is not None
        server = own.app.server
        await until(lambda: any(some.writing_paused for some in server.connections))
        await client.open("later")
        assert read <= 200
        source, body = EventSource(), b""
        await wire.reader.readuntil(b"\r\n\r\n")
        while f"id: {total + 1}\n".encode() not in body[-2_000:]:
            size = int(await wire.reader.readuntil(b"\r\n"), 16)
            body += (await wire.reader.readexactly(size + 2))[:-2]
    sent = [source.take(line) for line in body.decode().split("\n")]
    assert [one.id for one in sent if one] == [str(position) for position in range(1, total + 2)]
