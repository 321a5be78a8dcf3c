"""Limits over HTTP: which requests are admitted, what they cost, and what answers say."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from server.gate.key_store import KeyLimit
from server.gate.limit_memory import REMEMBERED_MAX
from tests.limits.steps import bucket, left, limited, once, state
from tests.support.client import Client
from tests.support.service import ServerProcess, Service, in_process, make_key

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def order(amount: int = 1) -> dict[str, object]:
    """Return a transfer's body."""
    return {"source": "world", "destination": "alice", "amount": amount, "currency": "EUR"}


async def test_a_burst_is_exact(service: Service, ledger: str) -> None:
    """Of 400 requests at once a burst of 100 admits 100; the others get 429 and read nothing."""
    client = await limited(service, ledger, once(100))
    answers = await asyncio.gather(*(client.get("/v1/accounts/nobody") for _ in range(400)))
    assert Counter(answer.status for answer in answers) == {404: 100, 429: 300}
    assert sorted(left(answer) for answer in answers if answer.status == 404) == list(range(100))
    assert {left(answer) for answer in answers if answer.status == 429} == {0}


async def test_a_burst_is_exact_across_processes(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Two processes on one Redis together admit what one would."""
    servers = [ServerProcess(database_url, tmp_path / f"{n}.log", redis_url=redis_url) for n in range(2)]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        async with in_process(database_url, redis_url) as service:
            token = await make_key(database_url, "books", limit=once(100))
            clients = [Client(service.session, server.url, token) for server in servers]
            # Each process sees what the other took.
            assert [left(await client.get("/v1/accounts/nobody")) for client in clients] == [99, 98]
            answers = await asyncio.gather(*(clients[n % 2].get("/v1/accounts/nobody") for n in range(400)))
            assert Counter(answer.status for answer in answers) == {404: 98, 429: 302}
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


async def test_a_refusal_says_what_to_do(service: Service, ledger: str) -> None:
    """A 429 names the policy and the wait, and says that the same key may be used again."""
    client = await limited(service, ledger, KeyLimit(1, 3_600, 2))
    await client.open("world", floor=None)
    await client.open("alice")
    answer = await client.transfer("world", "alice", 1, "k1")
    assert (answer.status, answer.headers["Content-Type"]) == (429, "application/problem+json")
    problem = answer.json
    assert (problem["type"], problem["code"], problem["status"]) == (QUOTA_EXCEEDED, "quota_exceeded", 429)
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "same_key")
    assert problem["violated-policies"] == ["default"]
    assert 3_590 <= int(answer.headers["Retry-After"]) <= 3_600
    assert answer.headers["RateLimit-Policy"] == '"default";q=1;w=3600'
    assert answer.headers["RateLimit"] == '"default";r=0;t=7200'
    read = await client.get("/v1/accounts/alice")
    assert read.status == 429
    assert "outcome" not in read.json


async def test_a_refusal_binds_no_key(service: Service, ledger: str) -> None:
    """An idempotency key that met a 429 stays free for another request."""
    admin = await service.client(ledger)
    await admin.open("world", floor=None)
    await admin.open("alice")
    client = await limited(service, ledger, once(1))
    await client.get("/v1/accounts/alice")
    assert (await client.transfer("world", "alice", 1, "k1")).status == 429
    bulk = await client.post("/v1/transfers/bulk", {"transfers": [{"key": "k2", **order()}]})
    assert bulk.status == 429
    for key in ("k1", "k2"):
        assert (await admin.get(f"/v1/idempotency-keys/{key}")).status == 404
        posted = await admin.transfer("world", "alice", 7, key)
        assert (posted.status, posted.replayed) == (201, False)


async def test_a_replay_costs_a_token(service: Service, ledger: str) -> None:
    """A replay takes a token, and is refused without one."""
    client = await limited(service, ledger, once(4))
    await client.open("world", floor=None)
    await client.open("alice")
    first = await client.transfer("world", "alice", 1, "k1")
    again = await client.transfer("world", "alice", 1, "k1")
    assert (first.status, again.body, left(again)) == (201, first.body, 0)
    assert (await client.transfer("world", "alice", 1, "k1")).status == 429


async def test_waiting_as_told_is_enough(service: Service, ledger: str) -> None:
    """After the seconds in Retry-After, the request is admitted."""
    client = await limited(service, ledger, KeyLimit(1, 1, 2))
    for cost in (1, 2):
        answers = [await client.get("/v1/accounts/nobody") for _ in range(3)]
        assert 429 in {answer.status for answer in answers}
        transfers = [{"key": f"{cost}-{n}", **order()} for n in range(cost)]
        refused = await client.post("/v1/transfers/bulk", {"transfers": transfers})
        assert refused.status == 429
        await asyncio.sleep(int(refused.headers["Retry-After"]))
        assert (await client.post("/v1/transfers/bulk", {"transfers": transfers})).status == 200


async def test_a_bulk_costs_its_items(service: Service, ledger: str) -> None:
    """A bulk of ten takes ten tokens, a malformed one takes one, and a refused one takes none."""
    client = await limited(service, ledger, once(25))
    ten = {"transfers": [{"key": f"k{n}", **order()} for n in range(10)]}
    assert left(await client.post("/v1/transfers/bulk", ten)) == 15
    accounts = {"accounts": [{"id": f"a{n}", "currency": "EUR"} for n in range(4)]}
    assert left(await client.post("/v1/accounts/bulk", accounts)) == 11
    bodies: list[object] = [{"transfers": []}, {**ten, "atomic": 1}, []]
    malformed = [await client.post("/v1/transfers/bulk", body) for body in bodies]
    assert [(answer.status, left(answer)) for answer in malformed] == [(400, 10), (400, 9), (400, 8)]
    refused = await client.post("/v1/transfers/bulk", ten)
    assert (refused.status, left(refused)) == (429, 8)


async def test_more_than_the_limit_holds(service: Service, ledger: str) -> None:
    """A bulk larger than the burst is a 400, not a 429, and costs nothing."""
    client = await limited(service, ledger, once(9))
    ten = {"transfers": [{"key": f"k{n}", **order()} for n in range(10)]}
    for _ in range(2):
        answer = await client.post("/v1/transfers/bulk", ten)
        assert (answer.status, answer.code) == (400, "cost_exceeds_capacity")
        assert (answer.json["retry"], answer.json["outcome"]) == ("never", "not_applied")
        assert "Retry-After" not in answer.headers
        assert left(answer) == 9


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("GET /v1/accounts/nobody", None, 404),
        ("GET /v1/accounts/n%20o", None, 404),
        ("GET /v1/accounts/nobody?min_version=x", None, 400),
        ("GET /v1/accounts/nobody?what=1", None, 400),
        ("GET /v1/accounts", None, 200),
        ("HEAD /v1/accounts", None, 200),
        ("GET /v1/accounts?limit=0", None, 400),
        ("POST /v1/accounts", {"id": "a", "currency": "EUR"}, 201),
        ("POST /v1/accounts", {}, 400),
        ("POST /v1/accounts/bulk?x=1", {}, 400),
        ("PATCH /v1/accounts/nobody", {}, 404),
        ("GET /v1/accounts/nobody/entries", None, 404),
        ("GET /v1/accounts/nobody/balance", None, 400),
        ("POST /v1/transfers", {}, 400),
        ("POST /v1/transfers?x=1", {}, 400),
        ("POST /v1/transfers/bulk", {}, 400),
        ("GET /v1/transfers", None, 200),
        ("GET /v1/transfers/nothing", None, 404),
        ("GET /v1/idempotency-keys/nothing", None, 404),
    ],
)
async def test_every_request_costs_and_says_so(
    service: Service, ledger: str, request_line: str, body: object, status: int
) -> None:
    """A request costs one token whatever its answer, and the answer says how many are left."""
    client = await limited(service, ledger, KeyLimit(100, 86_400, 7))
    for expected in (6, 5):
        method, path = request_line.split()
        answer = await client.send(method, path, body)
        assert answer.status == status or (status, answer.status) == (201, 200)
        assert answer.headers["RateLimit-Policy"] == '"default";q=100;w=86400'
        assert answer.headers["RateLimit"] == f'"default";r={expected};t={(7 - expected) * 864}'


async def test_a_role_that_is_too_low_costs_a_token(service: Service, ledger: str) -> None:
    """A request beyond the key's role is a 403, and takes a token."""
    reader = await limited(service, ledger, once(2), "read")
    answers = [await reader.post("/v1/accounts", {}) for _ in range(3)]
    assert [(answer.code, left(answer)) for answer in answers] == [("forbidden", 1), ("forbidden", 0), ("forbidden", 0)]
    assert (await reader.get("/v1/accounts")).status == 429


async def test_no_headers_without_a_key(service: Service) -> None:
    """An answer without a key has no limit headers."""
    nobody = Client(service.session, service.url, None)
    for path in ("/v1/accounts", "/livez", "/nothing"):
        assert not {"RateLimit", "RateLimit-Policy"} & set((await nobody.get(path)).headers)


async def test_a_ledger_has_a_limit_too(database_url: str, redis_url: str, redis: Any) -> None:
    """The keys of a ledger share its limit; its refusals take nothing from the key, and name the ledger's limit."""
    settings = {"ledger_rate": "1/day", "ledger_burst": 3}
    async with in_process(database_url, redis_url, **settings) as service:
        first = await limited(service, "books", once(10))
        second = await limited(service, "books", once(10))
        answers = [await client.get("/v1/accounts") for client in (first, first, second)]
        assert [(answer.status, left(answer)) for answer in answers] == [(200, 2), (200, 1), (200, 0)]
        assert answers[0].headers["RateLimit-Policy"] == '"default";q=1;w=86400, "ledger";q=1;w=86400'
        for client in (first, second, second):
            refused = await client.get("/v1/accounts")
            assert (refused.status, refused.json["violated-policies"]) == (429, ["ledger"])
        # Eight and nine of ten tokens are left, plus what some milliseconds added.
        assert [units // price for units, _, price in [await state(redis, c) for c in (first, second)]] == [8, 9]
        four = {"transfers": [{"key": f"k{n}", **order()} for n in range(4)]}
        never = await second.post("/v1/transfers/bulk", four)
        assert (never.status, never.code) == (400, "cost_exceeds_capacity")
        other = await limited(service, "others", once(10))
        assert (await other.get("/v1/accounts")).status == 200


async def test_buckets_have_no_lifetime(service: Service, ledger: str, redis: Any) -> None:
    """No bucket of a key has a lifetime, so Redis cannot evict it when it is short of memory."""
    clients = [await limited(service, ledger, limit) for limit in (once(2), KeyLimit(5, 1, 40), KeyLimit(3, 60, 7))]
    for client in clients * 2:
        await client.get("/v1/accounts")
    names = [await bucket(redis, client) for client in clients]
    # The same for all other buckets in this service's database; names of other kinds may contain text from callers.
    database, _, _ = names[0].partition(b":")
    names += [name async for name in redis.scan_iter(database + b":b:*")]
    assert {await redis.pttl(name) for name in names} == {-1}


async def test_scripts_may_be_flushed(service: Service, ledger: str, redis: Any) -> None:
    """If Redis forgets its scripts while requests run, no request fails and no token is lost."""
    client = await limited(service, ledger, once(100))

    async def calls() -> int:
        """Return how often a script was sent with its text, because Redis did not know it."""
        statistics = await redis.info("commandstats")
        return int(statistics.get("cmdstat_eval", {"calls": 0})["calls"])

    async def flush() -> None:
        for _ in range(20):
            await redis.script_flush()
            await asyncio.sleep(0.005)

    async def ask() -> list[int]:
        return [(await client.get("/v1/accounts/nobody")).status for _ in range(50)]

    before = await calls()
    flushing = asyncio.create_task(flush())
    answers = await asyncio.gather(*(ask() for _ in range(4)))
    await flushing
    assert Counter(status for found in answers for status in found) == {404: 100, 429: 100}
    assert await calls() > before


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_clock_of_redis_may_step(service: Service, ledger: str, redis: Any, hours: int) -> None:
    """
    After a step of an hour, back or forward, the wait is no longer than the limit itself makes it.

    A step back shows in a bucket that was written in the future.
    """
    client = await limited(service, ledger, KeyLimit(1, 1, 3))
    assert [(await client.get("/v1/accounts")).status for _ in range(4)] == [200] * 3 + [429]
    name = await bucket(redis, client)
    units, since, price = await state(redis, client)
    await redis.set(name, f"{units}:{since - hours * 3_600 * 10**6}:{price}")
    await asyncio.sleep(REMEMBERED_MAX / 1_000_000)
    answer = await client.get("/v1/accounts")
    if hours > 0:
        assert (answer.status, left(answer)) == (200, 2)
        return
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    await asyncio.sleep(1)
    assert (await client.get("/v1/accounts")).status == 200
