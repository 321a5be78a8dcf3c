"""The client of a cluster: every command finds its server, also while slots move and servers fail."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from server.store.redis import RedisAwayError
from server.store.redis_cluster import RedisCluster, connect
from server.store.scripts import script
from tests.support.service import BOUND_SECONDS
from tests.support.valkey_cluster import OwnCluster
from tests.support.waiting import until

# A machine busy with tests is not a server that is away.
PATIENCE_SECONDS = 0.5
RUN = b"ab12"


@pytest.fixture
async def cluster(folder: Path) -> AsyncIterator[OwnCluster]:
    """Three primaries."""
    servers = OwnCluster(folder)
    try:
        await servers.start()
        yield servers
    finally:
        servers.stop()


@pytest.fixture
async def client(cluster: OwnCluster) -> AsyncIterator[RedisCluster]:
    """A client that knows nothing yet but one address."""
    made = connect(cluster.url, PATIENCE_SECONDS)
    assert isinstance(made, RedisCluster)
    yield made
    await made.close()


def keys(count: int) -> list[bytes]:
    """Return keys of many slots."""
    return [b"key:{%d}" % number for number in range(count)]


async def test_many_commands_find_their_servers(cluster: OwnCluster, client: RedisCluster) -> None:
    """Thousands at once, from the first moment on: one look at the topology, every server takes its part."""
    names = keys(1_500)
    assert await asyncio.gather(*(client.submit(key, ("SET", key, b"v" + key)) for key in names)) == [b"OK"] * 1_500
    assert await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names)) == [b"v" + key for key in names]
    sizes = [node.ask("DBSIZE") for node in cluster.nodes]
    assert sum(sizes) == 1_500
    assert min(sizes) > 300
    assert sum(node.calls("cluster|slots") for node in cluster.nodes) == 1


async def test_settling_reaches_all_servers(cluster: OwnCluster, client: RedisCluster) -> None:
    """Snapshots go and replays come, wherever they are."""
    names = keys(60)
    await asyncio.gather(*(client.submit(key, ("SET", key, b"S1 old")) for key in names))
    replays = {b"replay:" + key: b"answer" for key in names}
    await client.settle(dict.fromkeys(names[:40], 2), replays, run=RUN, replay_seconds=60)
    left = await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names))
    assert left == [None] * 40 + [b"S1 old"] * 20
    stored = await asyncio.gather(*(client.submit(b"replay:" + key, ("GET", b"replay:" + key)) for key in names))
    assert stored == [b"answer"] * 60


async def test_a_slot_that_moves(cluster: OwnCluster, client: RedisCluster) -> None:
    """Before, while and after its slot moves, keys that exist and keys that do not are read and written right."""
    names = [b"{moving}:%d" % n for n in range(20)]
    source = cluster.node_of(names[0])
    target = next(node for node in cluster.nodes if node is not source)
    slot = key_slot(names[0])
    settle = script("settle")
    for key in names[:10]:
        assert await client.submit(key, ("SET", key, b"S1 " + key)) == b"OK"
    cluster.begin_move(slot, source, target)
    for key in names[:10]:
        assert await client.submit(key, ("GET", key)) == b"S1 " + key
    for key in names[10:]:
        # By script, which the server it goes to has never seen.
        assert await client.submit(key, settle.call([key], 0, RUN, 60, b"replay")) == 1
        assert await client.submit(key, ("GET", key)) == b"replay"
    await cluster.end_move(slot, source, target)
    assert await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names)) == [
        *(b"S1 " + key for key in names[:10]),
        *[b"replay"] * 10,
    ]
    asked = source.calls("get")
    await client.submit(names[0], ("GET", names[0]))
    assert source.calls("get") == asked
    assert not client.away


async def test_a_server_dies(cluster: OwnCluster, client: RedisCluster) -> None:
    """The keys of the dead one fail fast, those of the others work; when it is back, it works without being told."""
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
        assert {type(a) for k, a in zip(names, answers, strict=True) if k in theirs} == {RedisAwayError}
        assert [a for k, a in zip(names, answers, strict=True) if k in others] == others
    assert not client.away
    # Looks at the topology stay few, however many commands fail.
    assert sum(node.calls("cluster|slots") for node in (cluster.nodes[0], cluster.nodes[2])) <= 12
    dead.start()

    async def well() -> bool:
        with contextlib.suppress(RedisAwayError):
            return bool(await client.submit(theirs[0], ("SET", theirs[0], b"again")) == b"OK")
        return False

    await until(well, 30)


async def test_a_replica_takes_over(folder: Path) -> None:
    """When a primary dies and its replica is promoted, its keys work again by themselves, the seed being dead."""
    cluster = OwnCluster(folder, replica=True)
    try:
        await cluster.start()
        client = connect(cluster.url)
        key = next(key for key in keys(60) if cluster.node_of(key) is cluster.nodes[0])
        assert await client.submit(key, ("SET", key, b"kept")) == b"OK"
        assert cluster.nodes[0].ask("WAIT", 1, 5_000) == 1
        cluster.nodes[0].stop()

        async def well() -> bool:
            with contextlib.suppress(RedisAwayError):
                return bool(await client.submit(key, ("GET", key)) == b"kept")
            return False

        await until(well, 30)
        assert await client.submit(key, ("SET", key, b"new")) == b"OK"
        await client.close()
    finally:
        cluster.stop()


async def test_nobody_is_there() -> None:
    """Without any server each command fails within a moment, soon at once, and closing takes no longer."""
    client = connect("redis://127.0.0.1:1?cluster=true")
    began = time.monotonic()
    while not client.away:
        with pytest.raises(RedisAwayError):
            await client.submit(b"key", ("PING",))
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 5
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(RedisAwayError):
            await client.submit(b"key", ("PING",))
    await client.close()
    assert time.monotonic() - began < BOUND_SECONDS


async def test_closing_while_commands_are_away(cluster: OwnCluster) -> None:
    """Closed with commands and a look at the topology under way, every caller hears something and nothing is left."""
    client = connect(cluster.url)
    sent = [asyncio.ensure_future(client.submit(key, ("ECHO", key))) for key in keys(500)]
    await asyncio.sleep(0)
    await client.close()
    answers = await asyncio.wait_for(asyncio.gather(*sent, return_exceptions=True), 2)
    assert all(
        isinstance(answer, RedisAwayError) or answer == key for key, answer in zip(keys(500), answers, strict=True)
    )
    await until(lambda: all(_clients(node.ask("CLIENT", "LIST", "TYPE", "normal")) == 1 for node in cluster.nodes))


def _clients(listed: bytes) -> int:
    return listed.count(b"\n")


async def test_a_cluster_that_is_away(cluster: OwnCluster, client: RedisCluster) -> None:
    """It is away when none of its servers answers, not when one does not, and it comes back by itself."""
    names = keys(60)

    async def ask() -> None:
        await asyncio.gather(*(client.submit(key, ("GET", key)) for key in names), return_exceptions=True)

    async def away() -> bool:
        await ask()
        return client.away

    await ask()
    assert not client.away
    cluster.nodes[1].stop()
    for _ in range(10):
        await ask()
    assert not client.away
    for node in cluster.nodes:
        node.stop()
    await until(away, 30)
    for node in cluster.nodes:
        node.start()
    await until(lambda: not client.away, 30)
