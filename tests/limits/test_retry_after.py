"""The exact wait that every 429 gives beside Retry-After: always enough, and never a millisecond too long."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gate import limit_memory
from server.gate.key_store import KeyLimit
from server.http import rate_limits
from server.http.rate_limits import QuotaExceededProblem, milliseconds_of, seconds_of
from tests.limits.steps import limited
from tests.support.client import Answer, Client
from tests.support.service import NO_REDIS, Service, in_process

# One request every 142.9 ms, with a burst of one: Retry-After has to say 1 second.
SEVEN = KeyLimit(7, 1, 1)
# Milliseconds until its next token, rounded up.
PERIOD_MS = 143
FOR_EVER = 3_600_000_000
ORDER = {"source": "world", "destination": "alice", "amount": 1, "currency": "EUR"}
WAYS = {
    "hot read": ("GET", "/v1/accounts/nobody"),
    "cold read": ("GET", "/v1/accounts"),
    "hot write": ("POST", "/v1/transfers"),
    "bulk": ("POST", "/v1/transfers/bulk"),
}


@pytest.fixture(params=["redis", "alone"])
async def limiter(request: pytest.FixtureRequest, database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service that counts in Redis, and one that counts alone."""
    async with in_process(database_url, redis_url if request.param == "redis" else NO_REDIS) as service:
        yield service


async def ask(client: Client, way: str) -> Answer:
    """Send a request that costs one token."""
    method, path = WAYS[way]
    body: object = None if method == "GET" else [] if way == "bulk" else ORDER
    return await client.send(method, path, body, headers={"Idempotency-Key": "k1"} if way == "hot write" else {})


async def wait_as_told(answer: Answer) -> None:
    """Return when a refusal's milliseconds are over; a timer of the loop could fire one early."""
    await asyncio.to_thread(time.sleep, answer.json["retry_after_ms"] / 1_000)


def check(answer: Answer) -> None:
    """Check that a refusal gives the same wait in milliseconds and in Retry-After."""
    assert answer.status == 429
    wait = answer.json["retry_after_ms"]
    assert isinstance(wait, int)
    assert wait > 0
    assert int(answer.headers["Retry-After"]) == -(-wait // 1_000)
    assert answer.json["detail"].endswith(f"in {answer.headers['Retry-After']} s.")


async def test_waiting_exactly_is_always_enough(limiter: Service) -> None:
    """A client that waits as it was told is always admitted, and never told more than one period."""
    clients = {way: await limited(limiter, f"books-{n}", SEVEN) for n, way in enumerate(WAYS)}
    await asyncio.gather(*(admitted_each_time(client, way) for way, client in clients.items()))


async def admitted_each_time(client: Client, way: str) -> None:
    """Use up the limit and wait as told, several times."""
    admitted = 0
    for _ in range(8):
        answers = [await ask(client, way) for _ in range(3)]
        admitted += sum(answer.status != 429 for answer in answers)
        for answer in answers:
            if answer.status == 429:
                check(answer)
                assert answer.json["retry_after_ms"] <= PERIOD_MS
        if answers[-1].status != 429:
            # On a slow machine a token may come and be taken between two requests, which makes the earlier wait
            # obsolete.
            continue
        await wait_as_told(answers[-1])
        answer = await ask(client, way)
        assert answer.status != 429
        admitted += 1
        again = await ask(client, way)
        if again.status == 429:
            await wait_as_told(again)
    assert admitted >= 8


async def test_what_is_remembered_is_exact_too(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal from memory, on any route, gives a sufficient wait."""
    monkeypatch.setattr(limit_memory, "REMEMBERED_MAX", FOR_EVER)
    async with in_process(database_url, redis_url) as service:
        refused: list[tuple[Client, Answer]] = []
        assert service.app is not None
        decisions = service.app.tallies.decisions
        for way in WAYS:
            client = await limited(service, "books", KeyLimit(2, 1, 1))
            before = Counter(decisions)
            answers = [await ask(client, way) for _ in range(4)]
            assert answers[0].status != 429
            remembered = Counter(decisions) - before
            assert remembered["memory", False] >= 1
            refused.append((client, answers[-1]))

        async def admitted(client: Client, answer: Answer) -> bool:
            await wait_as_told(answer)
            return (await ask(client, "cold read")).status != 429

        assert all(await asyncio.gather(*(admitted(*each) for each in refused)))


async def test_a_bulk_is_told_how_long_it_takes(limiter: Service) -> None:
    """A bulk that needs several tokens is told several periods."""
    client = await limited(limiter, "books", KeyLimit(7, 1, 3))
    three = {"transfers": [{"key": f"k{n}", **ORDER} for n in range(3)]}
    assert (await client.post("/v1/transfers/bulk", three)).status == 200
    refused = await client.post("/v1/transfers/bulk", three)
    check(refused)
    assert PERIOD_MS < refused.json["retry_after_ms"] <= 3 * 1_000 / 7 + 1
    await wait_as_told(refused)
    assert (await client.post("/v1/transfers/bulk", three)).status == 200


async def test_the_ledgers_limit_is_told_exactly(database_url: str, redis_url: str) -> None:
    """The wait for a ledger's limit is as exact."""
    async with in_process(database_url, redis_url, ledger_rate="2/s", ledger_burst=1) as service:
        client = await service.client("books")
        await ask(client, "hot read")
        refused = await ask(client, "hot read")
        check(refused)
        assert refused.json["violated-policies"] == ["ledger"]
        await wait_as_told(refused)
        assert (await ask(client, "hot read")).status == 404


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "alone"])
async def test_failed_authentications_are_told_exactly(database_url: str, redis_url: str, redis: bool) -> None:
    """The wait for failed authentications is exact, and less than a whole second."""
    settings: dict[str, object] = {"auth_failure_rate": "2/s", "auth_failure_burst": 1}
    async with in_process(database_url, redis_url if redis else NO_REDIS, **settings) as service:
        nobody = Client(service.session, service.url, None)
        for _ in range(2):
            answers = [await nobody.get("/v1/accounts") for _ in range(3)]
            assert answers[0].status == 401
            check(answers[-1])
            assert answers[-1].json["retry_after_ms"] <= 500
            await wait_as_told(answers[-1])


@given(wait=st.integers(1, 10**15))
def test_rounding(wait: int) -> None:
    """A wait is rounded up to the next whole second and millisecond, and not further."""
    for found, unit in ((milliseconds_of(wait), 1_000), (seconds_of(wait), 1_000_000)):
        assert (found - 1) * unit < wait <= found * unit


def test_bodies_made_beforehand_are_few() -> None:
    """Prepared bodies differ by seconds, not milliseconds, so a flood finds its body in the cache."""
    rate_limits._prepared.cache_clear()
    made: set[Any] = set()
    for wait in range(1, 1_000_000, 997):
        made.add(QuotaExceededProblem("default", wait).body("id-1", write=False))
    assert len(made) == 1_000
    assert rate_limits._prepared.cache_info().misses == 1
