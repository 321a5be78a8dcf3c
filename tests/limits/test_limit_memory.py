"""Keys with nothing left: a worker that knows it refuses them without asking Redis, and never wrongly."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.gate import keys, limit_memory
from server.gate.key_store import KeyLimit
from server.gate.limits import LOCAL_BUCKETS_MAX
from server.store.postgres import Database
from tests.limits.model import EPOCH, Model, limits, steps
from tests.limits.steps import bucket, key_id, limit_key, limited, once
from tests.support.client import Client
from tests.support.service import Service, in_process, make_key
from tests.support.waiting import until

FOR_EVER = 3_600_000_000
READ = "/v1/accounts/nobody"


@pytest.fixture
async def remembering(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service that asks Redis again only when a wait is over."""
    monkeypatch.setattr(limit_memory, "REMEMBERED_MAX", FOR_EVER)
    async with in_process(database_url, redis_url) as running:
        yield running


def decisions(service: Service) -> Counter[tuple[str, bool]]:
    """Return which limiter decided on requests, and whether it admitted them, with counts."""
    assert service.app is not None
    return Counter(service.app.tallies.decisions)


async def until_refused(client: Client) -> None:
    """Read until the key has nothing left."""
    while (await client.get(READ)).status != 429:
        pass


async def test_a_flood_does_not_reach_redis(remembering: Service, redis: Any) -> None:
    """Hot and cold requests of a key with nothing left get Redis's answer, without asking Redis."""
    client = await limited(remembering, "books", once(3))
    await until_refused(client)
    # Redis would now admit the next request.
    assert await redis.delete(await bucket(redis, client)) == 1
    before = decisions(remembering)
    order = {"source": "world", "destination": "alice", "amount": 1, "currency": "EUR"}
    answers = [
        await client.get(READ),
        await client.get(f"{READ}?min_version=1"),
        await client.get("/v1/accounts"),
        await client.transfer("world", "alice", 1),
        await client.post("/v1/transfers", order),
        await client.post("/v1/transfers/bulk", []),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(429, "quota_exceeded")] * len(answers)
    for answer in answers:
        assert answer.json["violated-policies"] == ["default"]
        assert 86_000 < int(answer.headers["Retry-After"]) <= 86_400
        assert answer.headers["RateLimit"].startswith('"default";r=0;')
    assert decisions(remembering) - before == {("memory", False): len(answers)}


async def test_all_refusals_are_alike(remembering: Service) -> None:
    """Refusals from Redis, from memory and with a prepared body have the same form, and are counted alike."""
    client = await limited(remembering, "books", once(1))
    ids = {"X-Request-Id": "mine-1"}
    # The first refusal on the hot path comes from Redis.
    first, second = await asyncio.gather(*(client.send("GET", READ, headers=ids) for _ in range(2)))
    order = {"source": "world", "destination": "alice", "amount": 1, "currency": "EUR"}
    reads = [max(first, second, key=lambda answer: answer.status)]
    reads += [await client.send("GET", path, headers=ids) for path in (READ, "/v1/accounts")]
    writes = [await client.send("POST", "/v1/transfers", order, headers={**ids, "Idempotency-Key": "k1"})]
    writes += [await client.send("POST", "/v1/transfers", order, headers=ids)]
    writes += [await client.send("POST", "/v1/transfers/bulk", [], headers=ids)]
    for answers in (reads, writes):
        for answer in answers:
            assert answer.status == 429
            assert answer.headers.keys() == answers[0].headers.keys()
            assert answer.headers["X-Request-Id"] == answer.json["request_id"] == "mine-1"
            assert answer.json.keys() == answers[0].json.keys()
            assert answer.json["detail"].endswith(f"in {answer.headers['Retry-After']} s.")
    assert {"outcome", "retry"} == writes[0].json.keys() - reads[0].json.keys()
    assert remembering.app is not None
    assert remembering.app.tallies.problems["quota_exceeded"] == len(reads) + len(writes)


async def test_more_than_one_token_is_asked_for(remembering: Service) -> None:
    """A bulk asks Redis for its wait, and one beyond the burst is still a 400."""
    client = await limited(remembering, "books", KeyLimit(1, 3_600, 4))
    await until_refused(client)
    transfers = [{"key": f"k{n}", "source": "a", "destination": "b", "amount": 1, "currency": "EUR"} for n in range(5)]
    waits = {}
    for size in (1, 3):
        answer = await client.post("/v1/transfers/bulk", {"transfers": transfers[:size]})
        assert answer.status == 429
        waits[size] = int(answer.headers["Retry-After"])
    assert waits[3] == pytest.approx(waits[1] + 2 * 3_600, abs=5)
    answer = await client.post("/v1/transfers/bulk", {"transfers": transfers})
    assert (answer.status, answer.code) == (400, "cost_exceeds_capacity")


async def test_a_bulk_that_is_refused_says_nothing_of_others(remembering: Service) -> None:
    """A key with too few tokens for a bulk still has enough for single requests."""
    client = await limited(remembering, "books", once(3))
    transfers = [{"key": f"k{n}", "source": "a", "destination": "b", "amount": 1, "currency": "EUR"} for n in range(3)]
    assert (await client.get(READ)).status == 404
    assert (await client.post("/v1/transfers/bulk", {"transfers": transfers})).status == 429
    assert [(await client.get(READ)).status for _ in range(3)] == [404, 404, 429]


async def test_the_limit_that_is_used_up_is_named(database_url: str, redis_url: str) -> None:
    """If the ledger's limit is used up, the refusal from memory names it too."""
    async with in_process(database_url, redis_url, ledger_rate="1/day", ledger_burst=2) as service:
        client = Client(service.session, service.url, await make_key(database_url, "books", "admin"))
        await until_refused(client)
        before = decisions(service)
        answer = await client.get(READ)
        assert answer.json["violated-policies"] == ["ledger"]
        assert decisions(service) - before == {("memory", False): 1}


async def test_waiting_as_told_is_enough_for_all(remembering: Service) -> None:
    """A key refused from memory is admitted after the wait that it was told."""
    client = await limited(remembering, "books", KeyLimit(1, 1, 1))
    await until_refused(client)
    answer = await client.get(READ)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    await asyncio.sleep(int(answer.headers["Retry-After"]))
    assert (await client.get(READ)).status == 404


async def test_what_is_known_of_a_key_is_forgotten(service: Service, ledger: str, redis: Any) -> None:
    """After a short time the worker asks Redis again."""
    client = await limited(service, ledger, once(3))
    await until_refused(client)
    assert await redis.delete(await bucket(redis, client)) == 1
    await asyncio.sleep(limit_memory.REMEMBERED_MAX / 1_000_000)
    assert (await client.get(READ)).status == 404


async def test_new_limits_count_at_once(remembering: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are remembered for a key's old limits only: after a change, Redis is asked."""
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0.2)
    client = await limited(remembering, "books", once(1))
    await until_refused(client)
    async with Database(remembering.database_url, posting_connections=1, reading_connections=1) as database:
        assert await limit_key(database, "books", key_id(client), KeyLimit(1_000, 1, 1_000))

    async def admitted() -> bool:
        return (await client.get(READ)).status == 404

    await until(admitted)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_nothing_is_remembered_too_long(data: st.DataObject) -> None:
    """Before a refused request's wait is over, no other request gets the token, whatever is taken in between."""
    both = [data.draw(limits()), data.draw(limits())]
    model, now, refused_until = Model(both), EPOCH, EPOCH
    for gap, cost in data.draw(steps(data.draw(st.sampled_from(both)))):
        now += gap
        reply = model.ask(now, max(1, cost))
        assert reply.wait != 0 or now >= refused_until
        if cost == 1 and reply.wait > 0:
            assert reply.left == 0
            refused_until = now + reply.wait


def test_only_so_many_are_remembered() -> None:
    """The oldest entry is dropped first."""
    memory: limit_memory.LimitMemory[int] = limit_memory.LimitMemory()
    for name in range(LOCAL_BUCKETS_MAX + 1):
        memory.remember(name, limit_memory.now(), FOR_EVER)
    assert memory.taken(0) is None
    assert len(memory._until) == LOCAL_BUCKETS_MAX
