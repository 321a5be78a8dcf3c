"""Invalidations that cannot be sent cost bounded work, and once one was dropped, no snapshot is trusted."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.store import cache as cache_module
from server.store.cache import PENDING_STEP_MAX, Cache
from server.store.cache_counters import CacheCounters
from server.store.keyspace import Keyspace
from server.store.redis_cluster import connect
from tests.support.client import Client
from tests.support.redis_proxy import RedisProxy, redis_proxied
from tests.support.service import NO_REDIS, Service, in_process
from tests.support.valkey import OwnValkey, running_valkey
from tests.support.waiting import until

LEDGER = "pending"
# Limit of remembered invalidations in tests that exceed it.
FEW = 3
ACCOUNTS = [f"account-{n}" for n in range(FEW + 2)]
# Limit where it should be large: resending them takes several steps.
MANY = 10 * PENDING_STEP_MAX
# Life of a snapshot in milliseconds: where the test does not wait for its end, and where it does.
SHORT_MS = 1_500
ENDLESS_MS = 3_600_000


@pytest.fixture
def valkey(folder: Path) -> Iterator[OwnValkey]:
    """A server that this test may break."""
    with running_valkey(folder) as server:
        yield server


async def served(service: Service, client: Client, account: str) -> bool:
    """Read an account and tell whether the answer came from Redis."""
    assert service.app is not None
    hits = service.app.counters.hits
    await client.account(account)
    return service.app.counters.hits > hits


async def write_while_cut_off(service: Service, client: Client, proxy: RedisProxy) -> None:
    """Post to more accounts than may be pending while the service is cut off from a Redis that goes on."""
    assert service.app is not None
    redis = service.app.redis
    proxy.refuse = True
    proxy.spoil = lambda _: [None]
    for account in ACCOUNTS:
        assert (await client.transfer("world", account, 1)).status == 201
    assert redis.away
    proxy.refuse = False
    proxy.spoil = None
    await until(lambda: not redis.away)


@pytest.mark.parametrize("life_ms", [ENDLESS_MS, SHORT_MS])
async def test_a_dropped_invalidation_ends_the_trust(
    database_url: str, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch, life_ms: int
) -> None:
    """
    A process that had to drop an invalidation counts it. It then reads and stores no snapshot of any account until the
    last snapshot that may be outdated has expired; after that it uses Redis as before.
    """
    monkeypatch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", 0.0)
    monkeypatch.setattr(cache_module, "PENDING_MAX", FEW)
    monkeypatch.setattr(cache_module, "SNAPSHOT_MS", life_ms)
    async with (
        redis_proxied(valkey.socket) as (proxy, port),
        in_process(database_url, f"redis://127.0.0.1:{port}", redis_timeout_ms=200) as service,
    ):
        client = await service.client(LEDGER)
        for account in (*ACCOUNTS, "quiet"):
            await client.fund(account, 100)
        assert service.app is not None
        counters = service.app.counters
        await until(lambda: served(service, client, "quiet"))
        assert counters.dropped == 0
        await write_while_cut_off(service, client, proxy)
        # The account "world" and the others, each once.
        assert counters.dropped >= len(ACCOUNTS) + 1 - FEW
        if life_ms == SHORT_MS:
            await until(lambda: served(service, client, "quiet"))
            return
        fills = counters.fills
        for account in ("quiet", *ACCOUNTS) * 3:
            assert not await served(service, client, account)
        assert counters.fills == fills


class Pending(OrderedDict[tuple[int, str], tuple[int, float]]):
    """Pending invalidations that count how many of them were looked at one by one."""

    looked = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for name in super().__iter__():
            self.looked += 1
            yield name

    def items(self) -> Any:
        """Count the items that are taken."""
        return ((name, self[name]) for name in self)


async def test_what_is_pending_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While Redis is down, a full set of pending invalidations delays the event loop no longer than a few of them: each
    step looks at a bounded number, whether they wait or have expired.
    """
    monkeypatch.setattr(cache_module, "PENDING_MAX", MANY)
    monkeypatch.setattr(cache_module, "SNAPSHOT_MS", SHORT_MS)
    cache = Cache(connect(NO_REDIS), Keyspace(), CacheCounters(), 60)
    pending = cache._pending = Pending()
    most = 0
    try:
        await cache.invalidate({(1, f"account-{n}"): 1 for n in range(MANY)})
        assert cache.invalidation_pending(1, "account-0")
        assert not cache.invalidation_pending(1, "never seen")
        assert cache.counters.dropped == 0
        await cache.invalidate({(1, "one-more"): 1})
        assert cache.counters.dropped == 1
        assert cache.invalidation_pending(1, "never seen")
        # Runs until all of them have expired, at nearly the same time.
        while pending:
            looked = pending.looked
            await asyncio.sleep(0)
            most = max(most, pending.looked - looked)
        await until(lambda: not cache.invalidation_pending(1, "never seen"))
    finally:
        await cache.close()
    # A step looks at some that may have expired, and some that are sent.
    assert 0 < most <= 2 * PENDING_STEP_MAX
