"""Long statements are sent in pieces: a partial one never passes for a whole one, however slowly it is read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import asyncpg
import pytest

from server.http import reply, streams
from server.ledger import statements
from server.ledger.statements import Line, Statement
from server.store.errors import StoreUnavailableError
from tests.input.wire import Response, Wire, connect, narrow, parse_head, request
from tests.support.client import Client
from tests.support.fill import BUSY, fill
from tests.support.hot import Hot, answered
from tests.support.service import Service, in_process
from tests.support.waiting import until

# Two in five are entries of the account: about 2 MB of statement.
TRANSFERS = 20_000
ENTRIES = TRANSFERS * 4 // 10
PATH = f"/v1/accounts/{BUSY}/statement"
CSV = "Accept: text/csv"
# Bytes that the kernel may buffer for a client that does not read, and the most pages made for it: one is in the
# transport, and the kernel has taken the one before it.
KERNEL_BYTES = 4_096
PAGES_AHEAD = 2


@pytest.fixture(scope="module")
async def filled_ledger(hot_service_of_file: Hot) -> Client:
    """A client of a ledger with one account that has thousands of entries."""
    return await filled(hot_service_of_file.service, "long")


async def filled(service: Service, ledger: str) -> Client:
    """Fill a ledger and return a client of it."""
    client = await service.client(ledger)
    connection = await asyncpg.connect(service.database_url, server_settings={"search_path": "tallystick"})
    ledger_id = await connection.fetchval("SELECT id FROM ledgers WHERE name = $1", ledger)
    await fill(connection, ledger_id, accounts=100, transfers=TRANSFERS)
    await connection.close()
    return client


@pytest.fixture
async def client(filled_ledger: Client, hot: Hot) -> AsyncIterator[Client]:
    """The same client; no stream is left when a test ends."""
    yield filled_ledger
    await until(lambda: hot.app.streams.count == 0)


@pytest.fixture
def pages_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of lines in each page that was read."""
    read: list[int] = []
    original = Statement.read_on

    async def read_on(self: Statement) -> list[Line]:
        lines = await original(self)
        read.append(len(lines))
        return lines

    monkeypatch.setattr(Statement, "read_on", read_on)
    return read


@asynccontextmanager
async def tight(service: Service) -> AsyncIterator[Wire]:
    """A connection with small kernel buffers on both sides."""
    assert service.app is not None
    before = set(service.app.server.connections)
    async with narrow(service.url) as wire:
        server = service.app.server
        await until(lambda: len(set(server.connections) - before) == 1)
        (added,) = set(server.connections) - before
        assert added.transport is not None
        added.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        yield wire


def ask(client: Client, *lines: str, method: str = "GET", path: str = PATH) -> bytes:
    """Return a request for the statement."""
    return request(method, path, *lines, token=client.token)


def lines_of(response: Response) -> list[bytes]:
    """Return the lines of a CSV, which must be complete."""
    found = response.body.split(b"\r\n")
    assert found[-1] == b""
    assert found[-2].startswith(b"closing,")
    return found[:-1]


async def test_a_long_statement_is_chunked(client: Client, hot: Hot) -> None:
    """A long statement has no length and ends with the last chunk; its headers are normal and the connection stays."""
    async with connect(hot.url) as wire:
        await wire.send(ask(client, CSV, "X-Request-Id: mine"))
        response = await answered(wire)
        assert response.status == 200
        assert response.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in response.headers
        assert response.headers["x-request-id"] == "mine"
        assert {"ratelimit", "ratelimit-policy", "date"} <= set(response.headers)
        assert len(lines_of(response)) == ENTRIES + 3
        await wire.send(ask(client, path=f"/v1/accounts/{BUSY}"))
        balance = (await answered(wire)).json["balance"]
        # From the second request on, the head is recognized as repeated.
        found = []
        for _ in range(3):
            await wire.send(ask(client))
            found.append((await answered(wire)).json)
    whole = found[-1]
    assert all(one["entries"] == whole["entries"] for one in found)
    assert whole["closing_balance"] == balance == sum(entry["amount"] for entry in whole["entries"])
    assert len(whole["entries"]) == ENTRIES


async def test_a_short_one_is_not(client: Client, hot: Hot) -> None:
    """A statement whose entries fit one page has a length."""
    async with connect(hot.url) as wire:
        await wire.send(ask(client, path="/v1/accounts/account:00000001/statement"))
        response = await answered(wire)
    assert int(response.headers["content-length"]) == len(response.body)


@pytest.mark.parametrize("by", ["created", "effective"])
async def test_both_orders_have_all_entries(client: Client, by: str) -> None:
    """From one index or merged from two, each entry is there once and the sums are right."""
    whole = (await client.get(f"{PATH}?by={by}")).json
    assert len({entry["transfer_id"] for entry in whole["entries"]}) == len(whole["entries"]) == ENTRIES
    total = 0
    for entry in whole["entries"]:
        total += entry["amount"]
        assert entry["balance"] == total
    name = "created_at" if by == "created" else "effective_at"
    instants = [entry[name] for entry in whole["entries"]]
    assert instants == sorted(instants)
    assert whole["closing_balance"] == total == await client.balance(BUSY)


async def test_amounts_are_strings_where_that_is_asked_for(client: Client) -> None:
    """Amounts are strings on request in every piece, also in a short statement."""
    whole = (await client.get(PATH)).json
    texts = (await client.get(PATH, Accept="application/json; amounts=string")).json
    assert texts["opening_balance"] == "0"
    assert texts["closing_balance"] == str(whole["closing_balance"])
    for entry, text in zip(whole["entries"], texts["entries"], strict=True):
        assert text == {**entry, "amount": str(entry["amount"]), "balance": str(entry["balance"])}
    short = (
        await client.get("/v1/accounts/account:00000001/statement", Accept="application/json; amounts=string")
    ).json
    assert short["closing_balance"] == short["entries"][-1]["balance"]
    assert isinstance(short["closing_balance"], str)


async def test_requests_behind_it_are_answered_in_order(client: Client, hot: Hot) -> None:
    """Pipelined requests of every kind wait until the last chunk."""
    account = f"/v1/accounts/{BUSY}"
    paths = [PATH, account, PATH, f"{account}/entries", "/livez", PATH, account]
    async with connect(hot.url) as wire:
        await wire.send(b"".join(ask(client, f"X-Request-Id: n{n}", path=path) for n, path in enumerate(paths)))
        responses = [await answered(wire) for _ in paths]
        assert [response.headers["x-request-id"] for response in responses] == [f"n{n}" for n in range(len(paths))]
    chunked = ["transfer-encoding" in response.headers for response in responses]
    assert chunked == [path == PATH for path in paths]
    assert responses[0].json["entries"] == responses[2].json["entries"] == responses[5].json["entries"]


async def test_a_connection_that_is_to_end_ends_behind_it(client: Client, hot: Hot) -> None:
    """A request that closes its connection gets the whole statement first."""
    async with connect(hot.url) as wire:
        await wire.send(ask(client, CSV, "Connection: close"))
        (response,) = await wire.receive_all()
    assert response.headers["connection"] == "close"
    assert len(lines_of(response)) == ENTRIES + 3


async def test_http_1_0_is_told_by_the_end_of_the_connection(client: Client, hot: Hot) -> None:
    """HTTP/1.0 gets no chunks; the closing line shows that nothing is missing."""
    async with connect(hot.url) as wire:
        await wire.send(ask(client, CSV).replace(b"HTTP/1.1", b"HTTP/1.0"))
        data = await wire.reader.read()
    top, _, body = data.partition(b"\r\n\r\n")
    status, headers = parse_head(top + b"\r\n\r\n")
    assert (status, headers["connection"]) == (200, "close")
    assert not {"transfer-encoding", "content-length"} & set(headers)
    assert len(lines_of(Response(status, headers, body, data))) == ENTRIES + 3


async def test_head_gets_the_head(client: Client, hot: Hot, pages_read: list[int]) -> None:
    """HEAD gives the headers of GET, and reads only the first page."""
    async with connect(hot.url) as wire:
        await wire.send(ask(client, CSV, method="HEAD") + ask(client, path=f"/v1/accounts/{BUSY}"))
        response = await wire.receive(head=True)
        assert response is not None
        assert (response.status, response.headers["transfer-encoding"]) == (200, "chunked")
        assert response.headers["content-type"].startswith("text/csv")
        assert (await answered(wire)).status == 200
    assert pages_read == [statements.PAGE_ENTRIES]


async def stuck(hot: Hot, wire: Wire, data: bytes, pages_read: list[int]) -> None:
    """Send a request without reading its answer, until no more of it is made."""
    await wire.send(data)
    await until(lambda: any(some.writing_paused for some in hot.server.connections))
    seen = -1
    while seen != len(pages_read):
        seen = len(pages_read)
        await asyncio.sleep(0.05)


async def test_what_is_not_taken_is_not_read(client: Client, hot: Hot, pages_read: list[int]) -> None:
    """For a client that does not read, few pages are made; it holds no connection or place, and delays no one."""
    async with tight(hot.service) as wire:
        await stuck(hot, wire, ask(client), pages_read)
        assert len(pages_read) * statements.PAGE_ENTRIES < ENTRIES
        assert len(pages_read) <= PAGES_AHEAD
        (stopped,) = [some for some in hot.server.connections if some.writing_paused]
        assert stopped.transport is not None
        assert stopped.transport.get_write_buffer_size() < 512 * 1024
        assert hot.counts() == (0, 0, 0, 0, 0)
        pool = hot.app.database.reading_pool
        assert pool.idle == pool.size
        assert hot.app.streams.count == 1
        for _ in range(20):
            assert (await client.get(f"/v1/accounts/{BUSY}")).status == 200
            assert (await client.transfer(BUSY, "sink", 1)).status == 201
        taken = len(pages_read)
        whole = (await answered(wire)).json
        assert len(pages_read) > taken
    # Later postings are not in the statement.
    assert len(whole["entries"]) == whole["entries"][-1]["version"] - 1
    assert whole["closing_balance"] == whole["entries"][-1]["balance"]
    assert whole["entries"][-1]["created_at"] <= whole["as_of"]


async def test_streams_are_counted(client: Client, hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams of a ledger and of all ledgers are limited; one more is a 503 that says so."""
    monkeypatch.setattr(streams, "STREAMS_OF_LEDGER_MAX", 2)
    other = await hot.service.client("other-of-streams")
    await other.fund("alice", 1_000)
    for number in range(4):
        await other.transfer("alice", "world", number + 1)
    async with tight(hot.service) as first, tight(hot.service) as second:
        for wire in (first, second):
            await wire.send(ask(client))
        await until(lambda: hot.app.streams.count == 2)
        refused = await client.get(PATH)
        assert (refused.status, refused.code) == (503, "overloaded")
        assert refused.json["detail"].startswith("This ledger has as many long answers under way")
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        # Short statements and HEAD requests do not count as streams.
        assert (await client.get("/v1/accounts/account:00000001/statement")).status == 200
        assert (await client.send("HEAD", PATH)).status == 200
        monkeypatch.setattr(statements, "PAGE_ENTRIES", 2)
        assert len((await other.get("/v1/accounts/alice/statement")).json["entries"]) == 5
        monkeypatch.setattr(streams, "STREAMS_MAX", 2)
        refused = await other.get("/v1/accounts/alice/statement")
        assert (refused.status, refused.code) == (503, "overloaded")
        assert refused.json["detail"].startswith("The server has as many")
        monkeypatch.setattr(statements, "PAGE_ENTRIES", 500)
        assert len((await answered(first)).json["entries"]) >= ENTRIES
        assert (await client.get(PATH)).status == 200
        await answered(second)
    await until(lambda: hot.app.streams.count == 0)


async def test_a_stream_is_a_running_request_of_its_key(client: Client, hot: Hot) -> None:
    """A stream counts as a running request of its key until it ends."""
    running = hot.server.pipeline.running
    async with tight(hot.service) as wire:
        await wire.send(ask(client))
        await until(lambda: hot.app.streams.count == 1)
        assert len(running) == 1
        assert (await client.get(f"/v1/accounts/{BUSY}")).status == 200
        assert len(running) == 1
        await answered(wire)
    await until(lambda: len(running) == 0)


@pytest.mark.parametrize("closes", [False, True])
async def test_who_never_reads_is_cut_off(
    client: Client, hot: Hot, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """A client that reads nothing for too long loses its connection, and its stream is freed."""
    before = hot.server.open_connections.count
    async with tight(hot.service) as wire:
        monkeypatch.setattr("server.http.wire.protocol.SEND_DEADLINE_SECONDS", 0.2)
        await wire.send(ask(client, *(["Connection: close"] if closes else [])))
        await until(lambda: hot.app.streams.count == 1)
        await until(lambda: hot.server.open_connections.count == before)
        await until(lambda: hot.app.streams.count == 0)
    await hot.quiet()


async def test_who_reads_slowly_gets_all(client: Client, hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for each piece, not for the whole: a client that keeps reading is not cut off."""
    monkeypatch.setattr("server.http.wire.protocol.SEND_DEADLINE_SECONDS", 0.5)
    began = time.monotonic()
    async with tight(hot.service) as wire:
        await wire.send(ask(client, CSV))
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await wire.reader.read(2**16)
            await asyncio.sleep(0.02)
    assert time.monotonic() - began > 0.5
    assert data.count(b"entry,") >= ENTRIES


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("closes", [False, True])
async def test_gone_midway(
    client: Client, hot: Hot, reset: bool, closes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that disconnects in the middle frees its resources, and no error is logged."""
    async with tight(hot.service) as wire:
        await wire.send(ask(client, *(["Connection: close"] if closes else [])))
        await wire.reader.readuntil(b"\r\n\r\n")
        await wire.reader.read(2_000)
        if reset:
            wire.writer.transport.abort()
        else:
            wire.writer.close()
        await until(lambda: hot.app.streams.count == 0)
    await hot.quiet()
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize(
    ("error", "level"), [(StoreUnavailableError("away"), "WARNING"), (RuntimeError("broken"), "ERROR")]
)
async def test_a_page_that_fails_cuts_it_off(
    client: Client,
    hot: Hot,
    *,
    closes: bool,
    error: Exception,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If a later page fails, the statement has no last chunk and no closing line, and the log has one line."""
    original = Statement.read_on
    calls = 0

    async def read_on(self: Statement) -> list[Line]:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise error
        return await original(self)

    monkeypatch.setattr(Statement, "read_on", read_on)
    async with connect(hot.url) as wire:
        await wire.send(ask(client, CSV, "X-Request-Id: torn", *(["Connection: close"] if closes else [])))
        data = b""
        try:
            while piece := await wire.reader.read(2**16):
                data += piece
        except ConnectionError:
            pass
    assert not data.endswith(b"0\r\n\r\n")
    assert b"closing," not in data
    await until(lambda: hot.app.streams.count == 0)
    await hot.quiet()
    cut = [record for record in caplog.records if "the answer to torn is cut off" in record.getMessage()]
    assert [record.levelname for record in cut] == [level]
    # An HTTP client raises an error.
    calls = 0
    with pytest.raises(aiohttp.ClientError):
        await client.get(PATH)


async def test_a_first_page_that_fails_is_a_problem(client: Client, hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first page fails, the answer is a problem with a status."""

    async def read_on(self: Statement) -> list[Line]:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(Statement, "read_on", read_on)
    answer = await client.get(PATH)
    assert (answer.status, answer.code) == (503, "unavailable")


@pytest.mark.parametrize("seconds", [reply.STOPPING_SECONDS, 0.0])
async def test_a_server_that_stops(
    template: str, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A stopping server finishes streams while it has time, and cuts the others off without a last chunk."""
    monkeypatch.setattr(reply, "STOPPING_SECONDS", seconds)
    async with in_process(database_url, redis_url) as service:
        client = await filled(service, "stopping")
        assert service.app is not None
        server = service.app.server
        async with tight(service) as wire:
            await wire.send(ask(client, CSV))
            await until(lambda: any(some.writing_paused for some in server.connections))
            server.open_connections.draining = True
            server.pre_shutdown()
            stopping = asyncio.create_task(server.shutdown(10.0))
            data = b""
            try:
                while piece := await wire.reader.read(2**16):
                    data += piece
            except ConnectionError:
                pass
            await asyncio.wait_for(stopping, 5.0)
        assert (data.endswith(b"0\r\n\r\n"), b"closing," in data) == ((seconds > 0,) * 2)
        await until(partial(_none, service))


def _none(service: Service) -> bool:
    """Return whether no stream is being sent."""
    assert service.app is not None
    return service.app.streams.count == 0
