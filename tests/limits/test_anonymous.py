"""Requests without a valid key: only health is free, each address has a limit, and callers with keys lose nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from server.gate import limit_memory
from server.gate.tokens import new_key
from server.http import admission
from tests.input.wire import Response, connect, request
from tests.limits.steps import left, limited, once
from tests.support.client import Answer, Client
from tests.support.service import NO_REDIS, Service, in_process

FOR_EVER = 3_600_000_000
BURST = 5
SLOW: dict[str, object] = {"anonymous_rate": "1/day", "anonymous_burst": BURST}
FAILURES_SLOW: dict[str, object] = {"auth_failure_rate": "1/day", "auth_failure_burst": BURST}
HEALTH = ("/livez", "/readyz")
# Requests without a key that are not failed authentications, and the status of each.
ANONYMOUS: dict[str, tuple[str, str, int]] = {
    "the pages": ("GET", "/problems", 200),
    "a page": ("GET", "/problems/overloaded", 200),
    "a page that there is not": ("GET", "/problems/x", 404),
    "the root": ("GET", "/", 200),
    "no such path": ("GET", "/nothing", 404),
    "no such path, only its head": ("HEAD", "/nothing", 404),
    "a write to no such path": ("POST", "/v1/nothing", 404),
    "no such method": ("PUT", "/v1/accounts", 405),
    "no such method of a page": ("POST", "/problems", 405),
    "no such method of health": ("POST", "/livez", 405),
}
# The same as raw bytes, each on its own connection.
BROKEN = {
    "not HTTP": b"what is this\r\n\r\n",
    "a field twice": request("GET", "/v1/accounts", "If-Match: a", "If-Match: b"),
    "a field twice with a key": request("GET", "/v1/accounts", "Authorization: Bearer y", token="x"),
    "large fields": request("GET", "/nothing", *[f"X-{number}: {'x' * 6_000}" for number in range(3)]),
}


def nobody(service: Service, token: str | None = None) -> Client:
    """Return a client without a key, or with an invalid one."""
    return Client(service.session, service.url, token)


async def alone(service: Service, data: bytes) -> Response:
    """Send *data* on its own connection and return the first answer."""
    async with connect(service.url) as wire:
        await wire.send(data)
        response = await wire.receive()
        assert response is not None
        return response


def refused(answer: Answer, policy: str = "anonymous") -> None:
    """Check that a request was refused by the limit of its address."""
    assert (answer.status, answer.code) == (429, "quota_exceeded")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["violated-policies"] == [policy]
    assert 86_000 < int(answer.headers["Retry-After"]) <= 86_400
    assert 86_000_000 < answer.json["retry_after_ms"] <= 86_400_000
    assert "RateLimit" not in answer.headers


@asynccontextmanager
async def elsewhere(service: Service) -> AsyncIterator[Client]:
    """Yield a client with another address and no key."""
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(session, service.url, None)


@pytest.mark.parametrize("name", ANONYMOUS)
async def test_only_health_is_free(database_url: str, redis_url: str, name: str) -> None:
    """An address is limited; health, failed authentications and other addresses do not count against that limit."""
    method, path, status = ANONYMOUS[name]
    async with in_process(database_url, redis_url, **SLOW) as service:
        answers = [await nobody(service).send(method, path) for _ in range(BURST + 3)]
        assert [answer.status for answer in answers] == [status] * BURST + [429] * 3
        for answer in answers[BURST:]:
            if method != "HEAD":
                refused(answer)
                assert ("outcome" in answer.json) == (method != "GET")
        for probe in HEALTH:
            assert (await nobody(service).get(probe)).status == 200
            assert (await nobody(service).send("HEAD", probe)).status == 200
        assert (await nobody(service).get("/v1/accounts")).status == 401
        async with elsewhere(service) as other:
            assert (await other.send(method, path)).status == status


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_broken_counts(database_url: str, redis_url: str, name: str) -> None:
    """Broken requests, and those with two keys, count for their address."""
    async with in_process(database_url, redis_url, **SLOW) as service:
        answers = [await alone(service, BROKEN[name]) for _ in range(BURST + 2)]
        assert [answer.status for answer in answers] == [400] * BURST + [429] * 2
        assert answers[-1].json["violated-policies"] == ["anonymous"]
        refused(await nobody(service).get("/nothing"))


async def test_all_kinds_share_a_limit(database_url: str, redis_url: str) -> None:
    """Pages, unknown paths and broken requests share one limit."""
    async with in_process(database_url, redis_url, **SLOW) as service:
        assert (await nobody(service).get("/problems")).status == 200
        assert (await nobody(service).get("/nothing")).status == 404
        assert (await nobody(service).post("/livez", {})).status == 405
        for data in (BROKEN["not HTTP"], BROKEN["a field twice"]):
            assert (await alone(service, data)).status == 400
        refused(await nobody(service).get("/problems"))


async def test_failures_and_pages_are_apart(database_url: str, redis_url: str) -> None:
    """An address that has used up its failures can still read pages."""
    async with in_process(database_url, redis_url, **FAILURES_SLOW, **SLOW) as service:
        answers = [await nobody(service).get("/v1/accounts") for _ in range(BURST + 1)]
        assert [answer.status for answer in answers] == [401] * BURST + [429]
        assert (await nobody(service).get("/problems")).status == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/accounts"])
async def test_a_bad_key_fails_everywhere(database_url: str, redis_url: str, asked: list[int], path: str) -> None:
    """A bad key on an unknown path counts as a failure too, and after the limit keys are no longer looked up."""
    async with in_process(database_url, redis_url, **FAILURES_SLOW, **SLOW) as service:
        answers = [await nobody(service, new_key(1).token).get(path) for _ in range(BURST + 3)]
        assert [answer.status for answer in answers] == [401] * BURST + [429] * 3
        assert len(asked) == BURST
        refused(answers[-1], "authentication")
        # The failures have taken nothing from the limit for requests without a key.
        assert (await nobody(service).get("/problems")).status == 200


async def test_pages_look_no_key_up(database_url: str, redis_url: str, asked: list[int]) -> None:
    """A page does not look up its key; with an unknown one it counts as a request without a key."""
    async with in_process(database_url, redis_url, **FAILURES_SLOW, **SLOW) as service:
        answers = [await nobody(service, new_key(1).token).get("/problems") for _ in range(BURST + 1)]
        assert [answer.status for answer in answers] == [200] * BURST + [429]
        refused(answers[-1])
        assert asked == []


async def test_it_is_exact_across_workers(database_url: str, redis_url: str) -> None:
    """Of 60 requests at once through two services, exactly as many are answered as the limit allows."""
    async with in_process(database_url, redis_url, **SLOW) as one, in_process(database_url, redis_url, **SLOW) as two:
        assert (await nobody(two).get("/nothing")).status == 404
        answers = await asyncio.gather(*(nobody((one, two)[n % 2]).get("/nothing") for n in range(60)))
        assert Counter(answer.status for answer in answers) == {404: BURST - 1, 429: 61 - BURST}


@pytest.mark.parametrize(("workers", "admitted"), [(1, 5), (2, 2)])
async def test_a_worker_counts_alone_without_redis(database_url: str, workers: int, admitted: int) -> None:
    """While Redis is away, each worker admits its share."""
    async with in_process(database_url, NO_REDIS, workers=workers, **SLOW) as service:
        answers = [await nobody(service).get("/problems") for _ in range(12)]
        assert [answer.status for answer in answers] == [200] * admitted + [429] * (12 - admitted)


async def test_a_flood_does_not_reach_redis(
    database_url: str, redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker remembers for a while that nothing is left, and does not ask Redis."""
    monkeypatch.setattr(limit_memory, "REMEMBERED_MAX", FOR_EVER)
    async with in_process(database_url, redis_url, **SLOW) as service:
        answers = [await nobody(service).get("/nothing") for _ in range(BURST + 1)]
        refused(answers[-1])
        assert service.app is not None
        database = service.app.gate.keyspace._database.decode()
        # Redis would now admit the next request.
        assert await redis.delete(*[name async for name in redis.scan_iter(f"{database}:a:*")])
        for method, path, _ in ANONYMOUS.values():
            assert (await nobody(service).send(method, path)).status == 429


async def test_refusals_are_alike(database_url: str, redis_url: str) -> None:
    """A refusal on the hot path has the form and the count of every other refusal, pipelined or not."""
    async with in_process(database_url, redis_url, **SLOW) as service:
        for _ in range(BURST):
            await nobody(service).get("/nothing")
        line = "X-Request-Id: mine-1"
        body = b"not read"
        cold = [
            request("GET", "http://ledger/nothing", line),
            request("GET", "/nothing", line, "Connection: close"),
        ]
        first = [await alone(service, data) for data in cold]
        async with connect(service.url) as wire:
            await wire.send(request("GET", "/nothing", line) * 3 + request("GET", "/livez"))
            found = [await wire.receive() for _ in range(4)]
            await wire.send(request("POST", "/nothing", line, body=body) + request("GET", "/livez"))
            found += [await wire.receive() for _ in range(2)]
        answers = [*first, *[answer for answer in found if answer is not None]]
        assert [answer.status for answer in answers] == [429, 429, 429, 429, 429, 200, 429, 200]
        for answer in (*answers[:5], answers[6]):
            assert answer.headers.keys() - {"connection"} == answers[0].headers.keys() - {"connection"}
            assert answer.headers["x-request-id"] == answer.json["request_id"] == "mine-1"
            assert answer.json.keys() - {"outcome", "retry"} == answers[0].json.keys()
        assert service.app is not None
        assert service.app.tallies.problems["quota_exceeded"] == 6


@pytest.mark.parametrize("name", ANONYMOUS)
async def test_with_a_key_it_costs_a_token(database_url: str, redis_url: str, name: str) -> None:
    """With a valid key such a request takes one token of the key and nothing else, even on the key's first use."""
    method, path, status = ANONYMOUS[name]
    page = method == "GET" and (path == "/" or path.startswith("/problems"))
    async with in_process(database_url, redis_url, **{**SLOW, "anonymous_burst": 1}) as service:
        client = await limited(service, "books", once(3 + page), "read")
        if page:
            # A page is free with a key that the worker does not know yet.
            await client.get("/nothing")
        answers = [await client.send(method, path) for _ in range(5)]
        assert [answer.status for answer in answers] == [status] * 3 + [429] * 2
        assert [left(answer) for answer in answers] == [2, 1, 0, 0, 0]
        if method != "HEAD":
            assert answers[-1].json["violated-policies"] == ["default"]
        # Nothing was taken from the address.
        assert (await nobody(service).get("/problems")).status == 200


async def test_with_a_key_it_takes_a_place(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, a request for an unknown path or a page needs admission too."""
    async with in_process(database_url, redis_url) as service:
        client = await service.client("books")
        assert (await client.get("/nothing")).status == 404
        monkeypatch.setattr(admission, "RUNNING_MAX", 0)
        monkeypatch.setattr(admission, "WAIT_SECONDS", 0.01)
        for path in ("/nothing", "/problems"):
            answer = await client.get(path)
            assert (answer.status, answer.code) == (503, "overloaded")


def sender(number: int, many: bool) -> dict[str, str]:
    """Return the header that names one of many callers behind the proxy, or nothing for a single caller."""
    return {"X_Forwarded_For": f"198.51.{number // 250}.{number % 250}"} if many else {}


@pytest.mark.parametrize("many", [False, True], ids=["one address", "many addresses"])
async def test_a_flood_costs_those_with_keys_nothing(database_url: str, redis_url: str, many: bool) -> None:
    """During a flood of pages, unknown paths and bad keys, every request with a key is answered."""
    settings: dict[str, object] = {
        "trusted_proxies": "127.0.0.1",
        "anonymous_rate": "50/s",
        "anonymous_burst": 200,
        "auth_failure_rate": "10/s",
        "auth_failure_burst": 50,
    }
    paths = ("/nothing", "/problems", "/v1/accounts", "/problems/overloaded")
    async with in_process(database_url, redis_url, **settings) as service:
        client = await service.client("books")
        await client.fund("alice", 1_000)
        await client.open("bob")
        over = asyncio.Event()
        flooded: Counter[int] = Counter()

        async def flood(number: int) -> None:
            while not over.is_set():
                token = new_key(1).token if number % 5 == 0 else None
                answer = await nobody(service, token).get(paths[number % 4], **sender(number, many))
                flooded[answer.status] += 1

        floods = [asyncio.create_task(flood(number)) for number in range(40)]
        statuses: Counter[int] = Counter()
        for number in range(20):
            statuses[(await client.get("/v1/accounts/alice")).status] += 1
            statuses[(await client.transfer("alice", "bob", 1)).status] += 1
            if number % 10 == 0:
                statuses[(await client.get("/nothing")).status] += 1
        over.set()
        await asyncio.gather(*floods)
        assert statuses == {200: 20, 201: 20, 404: 2}
        assert flooded.keys() <= {200, 401, 404, 429, 503}
        assert flooded.total() > 100
