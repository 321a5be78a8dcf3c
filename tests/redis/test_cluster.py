"""In a cluster, every command finds its server, and invalidations work wherever a slot moves."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from server.store.cache import Cache, Replay
from server.store.cache_counters import CacheCounters
from server.store.keyspace import Keyspace
from server.store.postgres import Database
from server.store.redis import Redis, RedisAwayError
from server.store.redis_cluster import connect
from tests.support.service import BOUND_SECONDS
from tests.support.valkey_cluster import OwnCluster
from tests.support.waiting import until

# On a busy machine a slow server must not count as away.
PATIENCE_SECONDS = 2.0
# A short quarantine that a test waits for, but longer than a test needs to check it.
SHORT_SECONDS = 2
RUN = b"ab12"
# Turns of the event loop; more than a read of the topology takes.
TICKS = 100


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let redis-py find what moves, however busy the machine is."""
    monkeypatch.setattr("server.store.redis_cluster.MOVING_SECONDS", 20.0)
    monkeypatch.setattr("server.store.redis_cluster.CONNECT_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
async def cluster(folder: Path) -> AsyncIterator[OwnCluster]:
    """A cluster of three primaries."""
    servers = OwnCluster(folder)
    try:
        await servers.start()
        yield servers
    finally:
        servers.stop()


@pytest.fixture
async def client(cluster: OwnCluster) -> AsyncIterator[Redis]:
    """A client that knows only one address so far."""
    made = connect(cluster.url, PATIENCE_SECONDS)
    yield made
    await made.close()


async def works(client: Redis, key: bytes) -> bool:
    """Whether the server of a key accepts writes."""
    with contextlib.suppress(RedisAwayError):
        return bool(await client.submit(key, ("SET", b"works:{%b}" % key, b"1")) == b"OK")
    return False


def keys(count: int) -> list[bytes]:
    """Return keys in many slots."""
    return [b"key:{%d}" % number for number in range(count)]


async def test_commands_find_their_servers(cluster: OwnCluster, client: Redis) -> None:
    """
    Many commands at once reach the right servers from the first moment, and the topology is read once. Invalidations
    find their servers too.
    """
    names = keys(1_500)
    # Few enough that the loop can read the topology in time beside them, even on a busy machine.
    first = names[:100]
    assert await asyncio.gather(*(client.submit(key, ("SET", key, b"S1 old")) for key in first)) == [b"OK"] * 100
    assert await asyncio.gather(*(client.submit(key, ("SET", key, b"S1 old")) for key in names)) == [b"OK"] * 1_500
    assert await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names)) == [b"S1 old"] * 1_500
    sizes = [node.ask("DBSIZE") for node in cluster.nodes]
    assert min(sizes) > 300
    assert sum(node.calls("cluster|slots") for node in cluster.nodes) == 1
    for key in names[:40]:
        await client.invalidate({key: 2}, {b"replay:" + key: b"answer"}, run=RUN, replay_seconds=60)
    left = await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names[:60]))
    assert left == [None] * 40 + [b"S1 old"] * 20
    stored = await asyncio.gather(*(client.submit(key, ("GET", b"replay:" + key)) for key in names[:40]))
    assert stored == [b"answer"] * 40


async def test_closing_while_commands_are_away(cluster: OwnCluster) -> None:
    """
    A client closed with commands under way, or while it reads the topology, answers every caller and leaves nothing
    open.
    """
    client = connect(cluster.url)
    first = asyncio.ensure_future(client.submit(b"key", ("PING",)))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(RedisAwayError):
        await first
    client = connect(cluster.url, PATIENCE_SECONDS)
    await until(lambda: works(client, b"key"))
    sent = [asyncio.ensure_future(client.submit(key, ("ECHO", key))) for key in keys(500)]
    await asyncio.sleep(0)
    await client.close()
    assert await asyncio.wait_for(asyncio.gather(*sent), 20) == keys(500)
    await until(lambda: all(node.ask("CLIENT", "LIST", "TYPE", "normal").count(b"\n") == 1 for node in cluster.nodes))


async def test_closing_at_any_moment(cluster: OwnCluster) -> None:
    """A client can be closed at any step of reading the topology, and leaves no connection open."""
    for ticks in range(TICKS):
        client = connect(cluster.url, PATIENCE_SECONDS)
        asked = asyncio.ensure_future(client.submit(b"key", ("PING",)))
        for _ in range(ticks):
            await asyncio.sleep(0)
        async with asyncio.timeout(BOUND_SECONDS):
            await client.close()
        await asyncio.gather(asked, return_exceptions=True)


async def test_a_slot_that_moves(cluster: OwnCluster, client: Redis) -> None:
    """
    Before, while and after a slot moves, invalidations remove snapshots from both servers. While it moves, other
    commands run correctly or not at all; afterwards they reach the new server.
    """
    names = [b"{moving}:%d" % n for n in range(20)]
    source = cluster.node_of(names[0])
    target = next(node for node in cluster.nodes if node is not source)
    slot = key_slot(names[0])
    for key in names:
        assert await client.submit(key, ("SET", key, b"S1 old")) == b"OK"
    cluster.begin_move(slot, source, target)
    source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names[:10])
    assert await client.submit(names[10], ("GET", names[10])) == b"S1 old"
    with pytest.raises(RedisAwayError):
        await client.submit(names[0], ("GET", names[0]))
    # One key on each server, and one on neither.
    versions = dict.fromkeys((names[0], names[10], b"{moving}:nowhere"), 2)
    await client.invalidate(versions, {}, run=RUN, replay_seconds=60)
    await cluster.end_move(slot, source, target)
    # The client does not know the new server yet, and the invalidation reaches it anyway.
    await client.invalidate({names[11]: 2}, {}, run=RUN, replay_seconds=60)
    assert target.ask("MGET", *names) == [
        *(None, *[b"S1 old"] * 9),
        *(None, None, *[b"S1 old"] * 8),
    ]
    await until(lambda: works(client, b"moving"))
    assert await client.submit(names[1], ("GET", names[1])) == b"S1 old"
    assert not client.away


async def test_a_slot_that_moves_to_an_empty_server(folder: Path) -> None:
    """
    While a server gets its first slot, invalidations remove the snapshots that have not moved and report that they are
    incomplete. Then the server is used.
    """
    cluster = OwnCluster(folder, spare=True)
    try:
        await cluster.start()
        empty = cluster.nodes[3]
        names = [b"{moving}:%d" % n for n in range(4)]
        source, slot = cluster.node_of(names[0]), key_slot(names[0])
        client = connect(cluster.url, PATIENCE_SECONDS)
        await until(lambda: works(client, b"moving"))
        for key in names:
            assert await client.submit(key, ("SET", key, b"S1 old")) == b"OK"
        cluster.begin_move(slot, source, empty)
        source.ask("MIGRATE", "127.0.0.1", empty.port, "", 0, 5_000, "KEYS", *names[:2])
        with pytest.raises(RedisAwayError):
            await client.invalidate(
                dict.fromkeys(names, 2), {b"{moving}:replay": b"answer"}, run=RUN, replay_seconds=60
            )
        assert source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10) == [b"works:{moving}"]
        await cluster.end_move(slot, source, empty)
        await until(lambda: works(client, b"moving"))
        await client.close()
    finally:
        cluster.stop()


async def test_servers_die(cluster: OwnCluster, client: Redis) -> None:
    """
    Commands for the keys of a dead server fail fast, and others work. The cluster counts as away only when no server
    answers, and is used again by itself.
    """
    names = keys(60)
    await asyncio.gather(*(client.submit(key, ("SET", key, key)) for key in names))
    dead = cluster.nodes[1]
    dead.stop()
    theirs = [key for key in names if cluster.node_of(key) is dead]
    others = [key for key in names if key not in theirs]
    assert theirs
    for _ in range(30):
        began = time.monotonic()
        answers = await asyncio.gather(*(client.submit(k, ("GET", k)) for k in names), return_exceptions=True)
        assert time.monotonic() - began < BOUND_SECONDS
        assert all(isinstance(a, RedisAwayError) for k, a in zip(names, answers, strict=True) if k in theirs)
        assert [a for k, a in zip(names, answers, strict=True) if k in others] == others
    assert not client.away
    # The topology is read only a few times, however many commands fail.
    assert sum(node.calls("cluster|slots") for node in (cluster.nodes[0], cluster.nodes[2])) <= 12
    for node in cluster.nodes:
        node.stop()

    async def away() -> bool:
        await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names), return_exceptions=True)
        return client.away

    await until(away)
    for node in cluster.nodes:
        node.start()
    await until(lambda: not client.away)
    for key in (theirs[0], others[0]):
        await until(lambda key=key: works(client, key))


async def test_a_replica_takes_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When a primary dies and its replica is promoted, its keys work again by themselves, even though the configured
    address is that of the dead server. Snapshots are not used there for a while, because the replica may have missed
    their removal.
    """
    monkeypatch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", 0.0)
    cluster = OwnCluster(folder, replica=True)
    try:
        await cluster.start()
        client = connect(cluster.url)
        key = next(key for key in keys(60) if cluster.node_of(key) is cluster.nodes[0])
        await until(lambda: works(client, key))
        assert client.serves_snapshots(key)
        assert await client.submit(key, ("SET", key, b"kept")) == b"OK"
        assert cluster.nodes[0].ask("WAIT", 1, 5_000) == 1
        # By its uptime alone, the replica would serve snapshots.
        monkeypatch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", SHORT_SECONDS)
        await until(lambda: int(cluster.nodes[3].ask("INFO", "server")["uptime_in_seconds"]) > SHORT_SECONDS)
        cluster.nodes[0].stop()
        await until(lambda: works(client, key))
        assert not client.serves_snapshots(key)
        assert await client.submit(key, ("GET", key)) == b"kept"
        await until(lambda: client.serves_snapshots(key))
        await client.close()
    finally:
        cluster.stop()


async def test_a_batch_of_several_ledgers(cluster: OwnCluster, client: Redis, database_url: str) -> None:
    """
    A batch invalidates its accounts on every server. When one server is away, only the invalidations of its ledgers
    become pending.
    """
    keyspace = Keyspace()
    async with Database(database_url, posting_connections=1, reading_connections=1) as database:
        await keyspace.learn(database)
    cache = Cache(client, keyspace, CacheCounters(), 60)
    names = [(ledger_id, "alice") for ledger_id in range(60)]
    keys = [keyspace.snapshot(*name) for name in names]
    for version in (1, 3):
        body = b"S%d.%b old" % (version, keyspace.run)
        assert await asyncio.gather(*(client.submit(key, ("SET", key, body)) for key in keys)) == [b"OK"] * len(keys)
        if version == 3:
            cluster.nodes[0].stop()
        answer = Replay(bytes(32), bytes(32), 201, b"{}")
        replays = {(ledger_id, "key"): answer for ledger_id, _ in names}
        await cache.invalidate(dict.fromkeys(names, version + 1), replays, keyspace.confirmation)
        pending = [cache.invalidation_pending(*name) for name in names]
        assert any(pending) == (version == 3)
        assert not all(pending)
        done = [key for key, waits in zip(keys, pending, strict=True) if not waits]
        assert await asyncio.gather(*(client.submit(key, ("GET", key)) for key in done)) == [None] * len(done)
    await cache.close()


async def test_nobody_is_there() -> None:
    """With no server up, each command fails at once, and so does not delay closing."""
    client = connect("redis://127.0.0.1:1?cluster=true")
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(RedisAwayError):
            await client.submit(b"key", ("PING",))
    with pytest.raises(RedisAwayError):
        await client.invalidate({b"key": 1}, {}, run=RUN, replay_seconds=60)
    assert time.monotonic() - began < BOUND_SECONDS
    await until(lambda: client.away)
    await client.close()
    assert time.monotonic() - began < BOUND_SECONDS
