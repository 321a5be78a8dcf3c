"""Waiting requests of many API keys share one call, which decides each as if it had come alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from server.gate.gate import BATCH_MAX, Decision, Gate, LookUp
from server.gate.keys import ApiKey, Role
from server.gate.limits import Limit
from server.store.cache import Replay, Snapshot
from tests.support.service import Service, in_process
from tests.support.valkey import OwnValkey
from tests.support.valkey_cluster import OwnCluster
from tests.support.waiting import until

QUARANTINE = "server.store.redis_connections.QUARANTINE_SECONDS"
BURST = 10
# No tokens come back while a test runs.
LIMIT = Limit(1, 86_400, BURST)
ANSWER = Replay(bytes(32), bytes(32), 201, b"{}")


def api_key(ledger_id: int, number: int, limit: Limit = LIMIT, ledger_limit: Limit | None = None) -> ApiKey:
    """Return a key like those that the authenticator makes."""
    return ApiKey(ledger_id, f"{number:016x}", Role.ADMIN, limit=limit, concurrency=1_000, ledger_limit=ledger_limit)


@pytest.fixture
async def service(database_url: str, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service with a Redis of its own for the test to change; snapshots are read from it at once."""
    monkeypatch.setattr(QUARANTINE, 0.0)
    async with in_process(database_url, valkey.url) as running:
        gate = gate_of(running)
        await until(lambda: gate.keyspace.confirmation is not None)
        await gate.enter(api_key(99, 99), 0)
        yield running


def gate_of(service: Service) -> Gate:
    """Return the gate of a service."""
    assert service.app is not None
    return service.app.gate


def decided(service: Service) -> Counter[tuple[str, bool]]:
    """Count the decisions by who made them and whether they admitted the request."""
    assert service.app is not None
    return Counter(service.app.tallies.decisions)


def calls(valkey: OwnValkey) -> int:
    """Return how many scripts the server has run."""
    return valkey.calls("evalsha") + valkey.calls("eval")


async def test_keys_that_wait_together_share_a_call(service: Service, valkey: OwnValkey) -> None:
    """Mixed requests of forty keys in eight ledgers make one call, and each key is counted separately."""
    gate, before = gate_of(service), calls(valkey)
    keys = [api_key(number % 8, number) for number in range(40)]
    decisions = await asyncio.gather(*(gate.enter(key, cost) for cost in (1, 2, 3) for key in keys))
    assert [(decision.wait, decision.left) for decision in decisions] == [(0, 9)] * 40 + [(0, 7)] * 40 + [(0, 4)] * 40
    assert calls(valkey) == before + 1
    more = await asyncio.gather(*(gate.enter(key, 5) for key in keys))
    assert {decision.wait > 0 for decision in more} == {True}


async def test_a_full_batch_of_as_many_keys_is_a_call(service: Service, valkey: OwnValkey) -> None:
    """One call reads and writes a full batch in which each request has different names, all of them new."""
    gate, before = gate_of(service), calls(valkey)
    keys = [api_key(number, number, ledger_limit=LIMIT) for number in range(BATCH_MAX)]
    asked = [(key, LookUp.SNAPSHOT, gate.keyspace.snapshot(key.ledger_id, "a")) for key in keys]
    decisions = await asyncio.gather(*(gate.enter(key, 1, look_up, name) for key, look_up, name in asked))
    assert calls(valkey) == before + 1
    assert {(decision.wait, decision.left) for decision in decisions} == {(0, BURST - 1)}
    assert len({decision.lease for decision in decisions} - {None}) == BATCH_MAX


async def test_keys_of_a_ledger_share_its_limit_as_they_come(service: Service) -> None:
    """The keys of a ledger get the ledger's tokens in the order of their requests."""
    gate = gate_of(service)
    one, two = (api_key(7, number, ledger_limit=Limit(1, 86_400, 4)) for number in (1, 2))
    decisions = await asyncio.gather(*(gate.enter(key, 1) for key in (one, two, two, two, one, one)))
    assert [decision.wait == 0 for decision in decisions] == [True] * 4 + [False] * 2
    assert [decision.left for decision in decisions] == [3, 2, 1, 0, 0, 0]
    assert [decision.waits_for for decision in decisions[4:]] == [1, 1]
    # A request that the ledger's limit refused is not charged to its key.
    assert (await gate.enter(api_key(7, 1), 0)).left == BURST - 1


async def test_what_stands_in_one_place_concerns_nobody_else(service: Service, valkey: OwnValkey) -> None:
    """
    A value of another type where a bucket, a snapshot or a replay belongs fails neither its own request nor others of
    the same call. It counts as missing, and a new bucket or lease replaces it.
    """
    gate, names = gate_of(service), gate_of(service).keyspace
    keys = [api_key(3, number) for number in range(4)]
    bucket, snapshot, replay = names.bucket(3, keys[0].buckets[0][0]), names.snapshot(3, "a"), names.replay(3, "k")
    stored = Snapshot(5, b"body")
    valkey.ask("SET", names.snapshot(3, "b"), stored.packed(names.run))
    valkey.ask("SET", names.replay(3, "l"), ANSWER.packed())
    for place in (bucket, snapshot, replay):
        valkey.ask("LPUSH", place, "planted")
    before = decided(service)
    decisions = await asyncio.gather(
        gate.enter(keys[0], 1),
        gate.enter(keys[1], 1, LookUp.SNAPSHOT, snapshot),
        gate.enter(keys[2], 1, LookUp.REPLAY, replay),
        gate.enter(keys[3], 1, LookUp.SNAPSHOT, names.snapshot(3, "b")),
        gate.enter(keys[3], 1, LookUp.REPLAY, names.replay(3, "l")),
    )
    assert decided(service) - before == {("redis", True): 5}
    assert [(decision.wait, decision.left) for decision in decisions] == [(0, 9)] * 4 + [(0, 8)]
    assert decisions[1].lease is not None
    assert decisions[2].replay is None
    assert (decisions[3].snapshot, decisions[4].replay) == (stored, ANSWER)
    assert [valkey.ask("TYPE", place) for place in (bucket, snapshot, replay)] == [b"string", b"string", b"list"]
    assert (await gate.enter(keys[0], 1)).left == 8


async def test_a_call_gives_each_lease_once(service: Service) -> None:
    """One of several requests for an account gets the lease, whatever their keys, and no two leases are equal."""
    gate = gate_of(service)
    one, two = api_key(4, 1), api_key(4, 2)

    def ask(key: ApiKey, account: str) -> "asyncio.Future[Decision]":
        return gate.enter(key, 1, LookUp.SNAPSHOT, gate.keyspace.snapshot(key.ledger_id, account))

    decisions = await asyncio.gather(ask(one, "a"), ask(two, "a"), ask(two, "b"), ask(one, "b"))
    assert [decision.lease is not None for decision in decisions] == [True, False, True, False]
    # The same account in a different ledger, each asked in a separate call.
    later = [await ask(api_key(5, 1), "a"), await ask(one, "a"), await ask(one, "c")]
    leases = [decision.lease for decision in (*decisions, *later) if decision.lease is not None]
    assert len(leases) == len(set(leases)) == 4


async def test_every_key_that_has_nothing_left_is_remembered(service: Service) -> None:
    """
    Each key that a call finds exhausted is remembered and refused without another call; a key with tokens left is not.
    """
    gate = gate_of(service)
    keys = [api_key(6, number, Limit(1, 86_400, burst)) for number, burst in enumerate((1, 1, 5))]
    decisions = await asyncio.gather(*(gate.enter(key, 1) for _ in range(2) for key in keys))
    assert [decision.wait == 0 for decision in decisions] == [True, True, True, False, False, True]
    known = [gate.exhausted(key) for key in keys]
    assert [found is not None and found.wait > 0 for found in known] == [True, True, False]


async def test_without_redis_each_key_is_counted_alone(service: Service, valkey: OwnValkey) -> None:
    """If Redis goes away while requests wait, the worker decides them, for each key separately."""
    gate = gate_of(service)
    keys = [api_key(number, number) for number in range(5)]
    with valkey.frozen():
        before = decided(service)
        decisions = await asyncio.gather(*(gate.enter(key, 1) for _ in range(2) for key in keys))
        assert decided(service) - before == {("worker", True): 10}
    assert [decision.left for decision in decisions] == [9] * 5 + [8] * 5


async def test_an_address_that_hides_a_cluster(database_url: str, folder: Path) -> None:
    """
    With the address of one server of a cluster but without `cluster=true`, that server decides for its own ledgers,
    several in one call too. The worker decides for the others, and the server does not count as away.
    """
    cluster = OwnCluster(folder)
    try:
        await cluster.start()
        async with in_process(database_url, cluster.nodes[0].tcp_url) as service:
            gate = gate_of(service)
            await until(lambda: gate.keyspace.known)
            keys = [api_key(number, number) for number in range(12)]
            names = [gate.keyspace.bucket(key.ledger_id, key.buckets[0][0]) for key in keys]
            here = sum(cluster.node_of(name) is cluster.nodes[0] for name in names)
            assert 2 <= here < len({key_slot(name) for name in names})
            for left in (9, 8, 7, 6, 5):
                before = decided(service)
                decisions = await asyncio.gather(*(gate.enter(key, 1) for key in keys))
                assert [decision.left for decision in decisions] == [left] * len(keys)
                assert decided(service) - before == {("redis", True): here, ("worker", True): len(keys) - here}
            assert service.app is not None
            assert not service.app.redis.away
    finally:
        cluster.stop()
