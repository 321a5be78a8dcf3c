"""The limit on how many requests of a key are running at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.gate import keys
from server.gate.key_store import KeyLimit
from server.gate.keys import ApiKey, Role
from server.gate.limits import Limit
from server.gate.running import Running
from tests.limits.steps import left, limited
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.waiting import until

BODY = b'{"id":"slow","currency":"EUR"}'


class Slow:
    """A request that runs until its body is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def end(self) -> bytes:
        """Send the body and return the status line."""
        self._writer.write(BODY)
        return await self._reader.readline()

    def go_away(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()


@asynccontextmanager
async def slow(client: Client, count: int) -> AsyncIterator[list[Slow]]:
    """Run this many requests of a key."""
    host, _, port = client.url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/accounts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for _, writer in connections:
        writer.write(head.encode())
    try:
        yield [Slow(reader, writer) for reader, writer in connections]
    finally:
        for _, writer in connections:
            writer.close()


def running(service: Service) -> Running:
    """Return the service's count of running requests."""
    assert service.app is not None
    return service.app.server.pipeline.running


async def counted(service: Service, count: int) -> None:
    """Return once this many requests are running, for all keys together."""
    await until(lambda: sum(running(service)._counts.values()) == count)


@pytest.fixture
async def alone(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service that gets no other requests."""
    async with in_process(database_url, redis_url) as service:
        yield service


async def test_so_many_and_no_more(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A request beyond the limit is refused, takes no token and binds no key; when another ends, it is admitted.

    The key is read again for each of them, as it is every five seconds.
    """
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0.0)
    client = await limited(alone, "books", KeyLimit(1, 86_400, 20, 2))
    other = await limited(alone, "books", KeyLimit(1, 86_400, 20, 1))
    async with slow(client, 2) as requests:
        await counted(alone, 2)
        for _ in range(2):
            refused = await client.open("b")
            assert (refused.status, refused.code, left(refused)) == (429, "too_many_running", 18)
            assert (refused.headers["Retry-After"], refused.json["retry_after_ms"]) == ("1", 1_000)
            assert refused.json["violated-policies"] == ["concurrency"]
            assert (refused.json["outcome"], refused.json["retry"]) == ("not_applied", "same_key")
        assert (await other.get("/v1/accounts")).status == 200
        assert await requests[0].end() == b"HTTP/1.1 201 Created\r\n"
        answer = await client.get("/v1/accounts")
        assert (answer.status, left(answer)) == (200, 17)
        assert await requests[1].end() == b"HTTP/1.1 200 OK\r\n"
    assert len(running(alone)) == 0


async def test_who_goes_away_makes_room(alone: Service) -> None:
    """A request whose client has disconnected no longer counts."""
    client = await limited(alone, "books", KeyLimit(1, 86_400, 20, 1))
    async with slow(client, 1) as requests:
        await counted(alone, 1)
        assert (await client.get("/v1/accounts")).code == "too_many_running"
        requests[0].go_away()
        await counted(alone, 0)
    assert (await client.get("/v1/accounts")).status == 200


@pytest.mark.parametrize("path", ["/v1/accounts/nobody", "/v1/accounts?limit=x", "/v1/transfers/x?y", "/v1/accounts"])
async def test_whatever_ends_a_request_makes_room(alone: Service, path: str) -> None:
    """Refused and failed requests no longer count either."""
    client = await limited(alone, "books", KeyLimit(1, 86_400, 2, 1))
    for _ in range(4):
        assert (await client.get(path)).json.get("code") != "too_many_running"
        assert len(running(alone)) == 0


async def test_a_role_that_is_too_low_comes_first(alone: Service) -> None:
    """A missing role is reported before the limit on running requests."""
    client = await limited(alone, "books", KeyLimit(1, 86_400, 9, 1), "write")
    reader = await limited(alone, "books", KeyLimit(1, 86_400, 9, 1), "read")
    async with slow(client, 1):
        await counted(alone, 1)
        assert (await reader.open("b")).code == "forbidden"


def test_only_keys_with_requests_take_room() -> None:
    """Only keys with running requests are kept in memory."""
    counts = Running()
    made = [ApiKey(1, f"{n:x}", Role.READ, limit=Limit(1, 1, 1), concurrency=2, ledger_limit=None) for n in range(100)]
    for key in made:
        assert [counts.enter(key) for _ in range(3)] == [True, True, False]
    assert len(counts) == 100
    for key in made:
        counts.leave(key)
        assert counts.enter(key)
        counts.leave(key)
        counts.leave(key)
    assert len(counts) == 0
