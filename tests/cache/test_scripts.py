"""The model of the protocol does the same as the real scripts, in all small states."""

import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from server.store.cache import Snapshot
from server.store.keyspace import LEASE_MS, SNAPSHOT_MS
from server.store.redis import RedisServer, invalidate_command
from server.store.scripts import script
from tests.cache.scripts import Value, fill, invalidate, look_up

VERSIONS = (1, 2, 3)
# The run of all calls, and a different one, by their numbers in the model.
RUNS = (b"ab12", b"ab13")
RUN = RUNS[0]
VALUES: list[Value] = [
    None,
    *(("S", version, run) for version in VERSIONS for run in (0, 1)),
    *(("L", token, least) for token in (1, 2) for least in (0, *VERSIONS)),
]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisServer]:
    """A client with a long timeout."""
    client = RedisServer(redis_url, None, 5.0)
    yield client
    await client.close()


def filled(version: int) -> bytes:
    """Return the bytes that a reader stores."""
    return Snapshot(version, b"body").packed(RUN)


async def put(redis: RedisServer, key: bytes, value: Value) -> None:
    """Set the key to *value*."""
    if value is None:
        await redis.submit(key, ("DEL", key))
    else:
        text = f"S{value[1]}.{RUNS[value[2]].decode()} body" if value[0] == "S" else f"L{value[1]}:{value[2]}"
        await redis.submit(key, ("SET", key, text, "PX", SNAPSHOT_MS))


async def held(redis: RedisServer, key: bytes) -> Value:
    """Return the value of the key, and check that it has an expiry."""
    text = await redis.submit(key, ("GET", key))
    if text is None:
        return None
    assert await redis.submit(key, ("PTTL", key)) > 0
    if text.startswith(b"S"):
        version, _, run = text[1:].split(b" ")[0].partition(b".")
        return ("S", int(version), RUNS.index(run))
    token, _, least = text[1:].decode().rpartition(":")
    return ("L", int(token), int(least))


@pytest.mark.parametrize("value", VALUES, ids=str)
async def test_every_script_does_what_its_model_does(redis: RedisServer, value: Value) -> None:
    """From each state, `invalidate`, `fill` and `gate` lead to the state of the model."""
    key = f"model:{value}".encode()
    for version in VERSIONS:
        await put(redis, key, value)
        await redis.invalidate({key: version}, {}, run=RUN, replay_seconds=60)
        assert await held(redis, key) == invalidate(value, version)
    for token, version in itertools.product((1, 2, 3), VERSIONS):
        await put(redis, key, value)
        command = script("fill").call([key], str(token), version, filled(version), SNAPSHOT_MS, LEASE_MS, RUN)
        stored = await redis.submit(key, command)
        after = fill(value, token, version)
        assert await held(redis, key) == after
        assert stored == (after == ("S", version, 0) and value is not None and value[0] == "L")
    await put(redis, key, value)
    # Arguments: a token prefix of 7, no bucket, one request that costs nothing and asks for a snapshot.
    numbers = msgspec.msgpack.encode([0, 0, 1, 0, 1])
    found = (await redis.submit(key, script("gate").call([key], "7", LEASE_MS, numbers)))[2]
    after, how = look_up(value, 71)
    assert await held(redis, key) == after
    assert found[:1] == {"hit": b"S", "lease": b"G", "busy": b"L"}[how]


@pytest.mark.parametrize(
    "garbage",
    [b"", b"S", b"Sx body", b"Lease", b"L:", b"\x00\xff", b"S1", b"S9 body", b"S9. body", b"S9.ab13 body"],
    ids=repr,
)
async def test_foreign_values_are_removed(redis: RedisServer, garbage: bytes) -> None:
    """A value that our scripts did not write stops neither a batch nor a fill, and is removed."""
    key = b"foreign"
    await redis.submit(key, ("SET", key, garbage))
    await redis.submit(key, invalidate_command({key: 1}, {b"replay": b"value"}, RUN, 60))
    assert await redis.submit(key, ("EXISTS", key)) == 0
    await redis.submit(key, ("SET", key, garbage))
    assert await redis.submit(key, script("fill").call([key], "1", 1, filled(1), SNAPSHOT_MS, LEASE_MS, RUN)) == 0
    assert await redis.submit(key, ("EXISTS", key)) == 0


async def test_a_snapshot_is_as_old_as_its_lease(redis: RedisServer) -> None:
    """A snapshot's life counts from when its lease was taken, because its data may be that old."""
    key = b"aged"
    for left in (LEASE_MS, LEASE_MS // 4):
        await redis.submit(key, ("SET", key, "L1:0", "PX", left))
        assert await redis.submit(key, script("fill").call([key], "1", 1, filled(1), SNAPSHOT_MS, LEASE_MS, RUN)) == 1
        assert 0 < await redis.submit(key, ("PTTL", key)) <= SNAPSHOT_MS - (LEASE_MS - left)
