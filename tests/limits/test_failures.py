"""The limit on failed authentications from one network address."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from server.gate import limit_memory
from server.gate.addresses import network as network_of
from server.gate.tokens import new_key
from tests.support.client import Client
from tests.support.service import NO_REDIS, Service, in_process

FOR_EVER = 3_600_000_000
SLOW: dict[str, object] = {"auth_failure_rate": "1/day", "auth_failure_burst": 5}


def stranger(service: Service, token: str | None = None) -> Client:
    """Return a client with an invalid key."""
    return Client(service.session, service.url, token)


@asynccontextmanager
async def elsewhere(service: Service) -> AsyncIterator[Client]:
    """Yield a client with another address and no key."""
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(session, service.url, None)


async def test_failures_are_limited_by_address(database_url: str, redis_url: str) -> None:
    """After the limit an address gets 429; its known keys and other addresses do not."""
    async with in_process(database_url, redis_url, **SLOW) as service:
        good = await service.client("books")
        assert (await good.get("/v1/accounts")).status == 200
        tokens = [None, "", "wrong", new_key(1).token, new_key(2**62).token]
        answers = [await stranger(service, token).get("/v1/accounts") for token in tokens]
        assert [(answer.status, answer.code) for answer in answers] == [(401, "unauthorized")] * 5
        assert answers[0].headers["WWW-Authenticate"] == "Bearer"
        for _ in range(3):
            refused = await stranger(service).post("/v1/transfers", {})
            assert (refused.status, refused.code) == (429, "quota_exceeded")
            assert refused.json["violated-policies"] == ["authentication"]
            assert (refused.json["outcome"], refused.json["retry"]) == ("not_applied", "same_key")
            assert 86_000 < int(refused.headers["Retry-After"]) <= 86_400
            assert "RateLimit" not in refused.headers
            assert (await good.get("/v1/accounts")).status == 200
        async with elsewhere(service) as other:
            assert (await other.get("/v1/accounts")).status == 401


async def test_only_failures_count(database_url: str, redis_url: str, redis: Any) -> None:
    """Valid keys, missing roles and paths without a key do not count for an address."""
    async with in_process(database_url, redis_url, **SLOW) as service:
        good, reader = await service.client("books"), await service.client("books", "read")
        for _ in range(8):
            assert (await good.get("/v1/accounts")).status == 200
            assert (await reader.open("a")).status == 403
            assert (await stranger(service).get("/livez")).status == 200
            assert (await stranger(service).get("/nothing")).status == 404
        assert (await stranger(service).get("/v1/accounts")).status == 401
        assert service.app is not None
        buckets, index = service.app.gate.keyspace.addresses("authentication")
        assert await redis.hkeys(buckets) == await redis.zrange(index, 0, -1) == [b"127.0.0.1"]
        assert (await redis.hget(buckets, "127.0.0.1")).split(b":")[0] == b"%d" % (4 * 86_400 * 10**6)
        assert await redis.pttl(buckets) == await redis.pttl(index) == -1


async def test_failures_are_exact_across_workers(database_url: str, redis_url: str) -> None:
    """Of 60 failures at once through two services, exactly as many get 401 as the limit allows."""
    async with in_process(database_url, redis_url, **SLOW) as one, in_process(database_url, redis_url, **SLOW) as two:
        assert (await stranger(two).get("/v1/accounts")).status == 401
        sent = [stranger((one, two)[n % 2]).get("/v1/accounts") for n in range(60)]
        answers = await asyncio.gather(*sent)
        assert Counter(answer.status for answer in answers) == {401: 4, 429: 56}


@pytest.mark.parametrize(("workers", "admitted"), [(1, 5), (2, 2)])
async def test_a_worker_counts_alone_without_redis(database_url: str, workers: int, admitted: int) -> None:
    """While Redis is away, each worker admits its share of the failures."""
    async with in_process(database_url, NO_REDIS, workers=workers, **SLOW) as service:
        good = await service.client("books")
        assert (await good.get("/v1/accounts")).status == 200
        answers = [await stranger(service).get("/v1/accounts") for _ in range(12)]
        assert [answer.status for answer in answers] == [401] * admitted + [429] * (12 - admitted)
        assert (await good.get("/v1/accounts")).status == 200


async def test_waiting_as_told_is_enough(database_url: str, redis_url: str) -> None:
    """After the wait that it was told, an address may fail again."""
    settings = {"auth_failure_rate": "1/s", "auth_failure_burst": 2}
    async with in_process(database_url, redis_url, **settings) as service:
        answers = [await stranger(service).get("/v1/accounts") for _ in range(4)]
        assert [answer.status for answer in answers] == [401, 401, 429, 429]
        await asyncio.sleep(int(answers[-1].headers["Retry-After"]))
        assert (await stranger(service).get("/v1/accounts")).status == 401


async def used_up_and_emptied(service: Service, redis: Any) -> None:
    """Use up an address's failures, and make Redis forget them, so that Redis would admit the next one."""
    answers = [await stranger(service).get("/v1/accounts") for _ in range(6)]
    assert [answer.status for answer in answers] == [401] * 5 + [429]
    assert service.app is not None
    names = service.app.gate.keyspace.addresses("authentication")
    assert await redis.delete(*names) == 2


async def test_a_flood_of_failures_does_not_reach_redis(
    database_url: str, redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker remembers for a while that nothing is left, and does not ask Redis."""
    monkeypatch.setattr(limit_memory, "REMEMBERED_MAX", FOR_EVER)
    async with in_process(database_url, redis_url, **SLOW) as service:
        await used_up_and_emptied(service, redis)
        assert (await stranger(service).get("/v1/accounts")).status == 429


async def test_what_is_known_of_an_address_is_forgotten(database_url: str, redis_url: str, redis: Any) -> None:
    """After a short time the worker asks Redis again."""
    async with in_process(database_url, redis_url, **SLOW) as service:
        await used_up_and_emptied(service, redis)
        await asyncio.sleep(limit_memory.REMEMBERED_MAX / 1_000_000)
        assert (await stranger(service).get("/v1/accounts")).status == 401


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "local"),
        ("/run/x.sock", "local"),
    ],
)
def test_networks(address: str, network: str) -> None:
    """An IPv4 peer counts by address, an IPv6 peer by its /64, and all peers without an address together."""
    assert network_of(address) == network
