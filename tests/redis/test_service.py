"""While Redis fails, every answer of the whole service stays right, and it recovers by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from server.gate.key_store import KeyLimit
from tests.support.books import check_books
from tests.support.client import Client
from tests.support.redis_proxy import RedisProxy, redis_proxied
from tests.support.service import BOUND_SECONDS, Service, in_process, make_key
from tests.support.valkey import OwnValkey
from tests.support.valkey_cluster import OwnCluster
from tests.support.waiting import until

LEDGER = "faults"
ACCOUNTS = 6
# Enough for each server of a cluster to have some.
LEDGERS = 6
# Deadline of commands where a server of the cluster does not answer.
DEADLINE_MS = 200
QUARANTINE = "server.store.redis_connections.QUARANTINE_SECONDS"
# A bucket that gets almost no tokens while a test runs.
SMALL = KeyLimit(1, 86_400, 20, 1_000)


class Broken(NamedTuple):
    """A server that a test may break, and the proxy through which the service reaches it."""

    valkey: OwnValkey
    proxy: RedisProxy


Fault = Callable[[Broken], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _refused(redis: Broken) -> AsyncIterator[None]:
    redis.valkey.stop()
    yield
    redis.valkey.start()


@asynccontextmanager
async def _hung(redis: Broken) -> AsyncIterator[None]:
    with redis.valkey.frozen():
        yield


@asynccontextmanager
async def _slow(redis: Broken) -> AsyncIterator[None]:
    redis.proxy.delay_seconds = 1.0
    yield
    redis.proxy.delay_seconds = 0.0


@asynccontextmanager
async def _flushed(redis: Broken) -> AsyncIterator[None]:
    redis.valkey.ask("FLUSHALL")
    redis.valkey.ask("SCRIPT", "FLUSH")
    yield


@asynccontextmanager
async def _restarted(redis: Broken) -> AsyncIterator[None]:
    redis.valkey.stop()
    redis.valkey.start()
    yield


@asynccontextmanager
async def _full(redis: Broken) -> AsyncIterator[None]:
    redis.valkey.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis.valkey.ask("CONFIG", "SET", "maxmemory", "1")
    yield
    redis.valkey.ask("CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def _read_only(redis: Broken) -> AsyncIterator[None]:
    redis.valkey.ask("REPLICAOF", "127.0.0.1", "1")
    yield
    redis.valkey.ask("REPLICAOF", "NO", "ONE")


class Customer:
    """
    Moves money, sends everything twice, and checks every step.

    Args:
        clients: One for each service; each step uses the next one.
    """

    def __init__(self, *clients: Client) -> None:
        self._clients = clients
        self._turn = 0
        self._balances = dict.fromkeys((f"account-{n}" for n in range(ACCOUNTS)), 1_000)

    def _next(self) -> Client:
        self._turn += 1
        return self._clients[self._turn % len(self._clients)]

    async def begin(self) -> None:
        """Open the accounts and fund them."""
        for account, balance in self._balances.items():
            await self._clients[0].fund(account, balance)

    async def go(self, name: str, rounds: int) -> float:
        """Make some rounds and return the longest time of one, in seconds."""
        longest = 0.0
        for turn in range(rounds):
            began = time.monotonic()
            source, destination = (f"account-{(turn + step) % ACCOUNTS}" for step in (0, 1))
            first = await self._next().transfer(source, destination, 7, f"{name}-{turn}")
            assert (first.status, first.replayed) == (201, False), first
            self._balances[source] -= 7
            self._balances[destination] += 7
            again = await self._next().transfer(source, destination, 7, f"{name}-{turn}")
            assert (again.status, again.body, again.replayed) == (201, first.body, True)
            other = await self._next().transfer(source, destination, 8, f"{name}-{turn}")
            assert (other.status, other.code) == (422, "idempotency_key_reused")
            for account in (source, destination):
                for client in self._clients:
                    assert await client.balance(account) == self._balances[account]
            assert (await self._next().get("/v1/accounts/nobody")).status == 404
            longest = max(longest, time.monotonic() - began)
        return longest


async def admitted(service: Service, ledger: str) -> int:
    """Send three times the burst of a small key at once; return how many were admitted. Refusals must be correct."""
    client = Client(service.session, service.url, await make_key(service.database_url, ledger, "read", SMALL))
    # The first request looks up the unknown key, which is not measured here.
    assert (await client.get("/v1/accounts/nobody")).status == 404
    answers = await asyncio.gather(*(client.get("/v1/accounts/nobody") for _ in range(SMALL.burst * 3)))  # type: ignore[operator]  # it is given
    assert {answer.status for answer in answers} <= {404, 429}
    for answer in answers:
        if answer.status == 429:
            assert answer.code == "quota_exceeded"
            assert 0 < int(answer.headers["Retry-After"]) <= 86_400
    return sum(answer.status == 404 for answer in answers) + 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(_refused, id="refused"),
        pytest.param(_hung, id="hung"),
        pytest.param(_slow, id="slow"),
        pytest.param(_flushed, id="flushed"),
        pytest.param(_restarted, id="restarted"),
        pytest.param(_full, id="out of memory"),
        pytest.param(_read_only, id="read-only"),
    ],
)
async def test_every_answer_stays_right(fault: Fault, database_url: str, valkey: OwnValkey) -> None:
    """
    Before, during and after a failure of Redis, transfers, replays, reads after writes and refusals through two
    services are right, and the services use Redis again by themselves.
    """
    async with redis_proxied(valkey.socket) as (proxy, port):
        url = f"redis://127.0.0.1:{port}"
        async with (
            in_process(database_url, url, redis_timeout_ms=250) as one,
            in_process(database_url, url, redis_timeout_ms=250) as two,
        ):
            token = await make_key(database_url, LEDGER)
            customer = Customer(*(Client(service.session, service.url, token) for service in (one, two)))
            await customer.begin()
            await customer.go("before", 10)
            assert await admitted(one, LEDGER) == SMALL.burst
            async with fault(Broken(valkey, proxy)):
                await customer.go("at-first", 5)
                longest = await customer.go("during", 10)
                # The breaker is open, or Redis works: no request waits for Redis any more.
                assert longest < BOUND_SECONDS
                assert 1 <= await admitted(two, LEDGER) <= SMALL.burst * 2
            await customer.go("afterwards", 5)
            for service in (one, two):
                await until(partial(_uses_redis, service, token, valkey))
            await customer.go("well-again", 10)
            assert await admitted(two, LEDGER) == SMALL.burst
    await check_books(database_url)


async def _uses_redis(service: Service, token: str, valkey: OwnValkey) -> bool:
    asked = valkey.calls("evalsha")
    await Client(service.session, service.url, token).get("/v1/accounts/nobody")
    return valkey.calls("evalsha") > asked


async def test_on_a_cluster(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On a cluster of three, limits are exact, reads and replays use it, and the death of one server changes no answer.
    """
    monkeypatch.setattr(QUARANTINE, 0.0)
    cluster = OwnCluster(folder)
    try:
        await cluster.start()
        async with in_process(database_url, cluster.url) as one, in_process(database_url, cluster.url) as two:
            tokens = [await make_key(database_url, f"{LEDGER}-{number}") for number in range(LEDGERS)]
            customers = [
                Customer(*(Client(service.session, service.url, token) for service in (one, two))) for token in tokens
            ]

            async def go(name: str, rounds: int) -> float:
                return max(await asyncio.gather(*(customer.go(name, rounds) for customer in customers)))

            await asyncio.gather(*(customer.begin() for customer in customers))
            await go("before", 8)
            assert await admitted(one, f"{LEDGER}-0") == SMALL.burst
            assert min(node.calls("evalsha") + node.calls("eval") for node in cluster.nodes) > 10
            for token in tokens:
                await until(partial(_out_of_the_cache, one, Client(one.session, one.url, token)))
            monkeypatch.undo()
            replays = [key for node in cluster.nodes for key in node.ask("KEYS", "*:r:*before-*")]
            assert len(replays) == LEDGERS * 8
            cluster.nodes[1].stop()
            await go("at-first", 3)
            assert await go("during", 8) < BOUND_SECONDS
            cluster.nodes[1].start()
            await go("afterwards", 8)
            for service in (one, two):
                for node in cluster.nodes:
                    await until(partial(_is_used, service, tokens, node))
            await go("well-again", 8)
            # A worker that misses a reply of the restarted server may use its own share once.
            assert SMALL.burst <= await admitted(two, f"{LEDGER}-0") <= 2 * SMALL.burst
    finally:
        cluster.stop()
    await check_books(database_url)


async def test_a_server_of_a_cluster_that_hangs(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    When a server of a cluster hangs, reads of its ledgers, and other reads at the same moment, wait for it a few times.
    After that no read waits, and ledgers of the other servers are read from Redis.
    """
    monkeypatch.setattr(QUARANTINE, 0.0)
    cluster = OwnCluster(folder)
    try:
        await cluster.start()
        async with in_process(database_url, cluster.url, redis_timeout_ms=DEADLINE_MS) as service:
            assert service.app is not None
            counters = service.app.counters
            clients = [await service.client(f"{LEDGER}-{number}") for number in range(LEDGERS)]
            for client in clients:
                await client.open("account-0")

            async def hits() -> int:
                before = counters.hits
                await asyncio.gather(*(client.account("account-0") for client in clients))
                return counters.hits - before

            async def all_hit() -> bool:
                return await hits() == LEDGERS

            await until(all_hit)
            stored = {node: len(node.ask("KEYS", "*:s:*")) for node in cluster.nodes}
            hangs = next(node for node in cluster.nodes if 0 < stored[node] < LEDGERS)

            async def others_hit() -> bool:
                return await hits() == LEDGERS - stored[hangs]

            with hangs.frozen():
                await until(others_hit)
                async with asyncio.timeout(BOUND_SECONDS):
                    # If each read waited for the server, this would take twice as long.
                    for _ in range(2 * int(BOUND_SECONDS * 1_000) // DEADLINE_MS):
                        await hits()
    finally:
        cluster.stop()


async def _out_of_the_cache(service: Service, client: Client) -> bool:
    """Read an account and tell whether the answer came from Redis."""
    assert service.app is not None
    hits = service.app.counters.hits
    assert (await client.get("/v1/accounts/account-0")).status in (200, 404)
    return service.app.counters.hits > hits


async def _is_used(service: Service, tokens: list[str], node: OwnValkey) -> bool:
    """Whether a read of some ledger reaches this server."""
    asked = node.calls("evalsha") + node.calls("eval")
    await asyncio.gather(
        *(Client(service.session, service.url, token).get(f"/v1/accounts/{time.monotonic_ns()}") for token in tokens)
    )
    return node.calls("evalsha") + node.calls("eval") > asked
