"""A Redis at its `maxmemory` evicts what can be rebuilt, and never a limit."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from server.process.embedded.valkey import SETTINGS
from server.store.scripts import script
from tests.limits.steps import limited, once
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.valkey import OwnValkey, running_valkey

# Bytes that the server may use beyond its use at the start.
ROOM_BYTES = 2_000_000
# One stored answer.
ANSWER = b"x" * 1_000
SLOW: dict[str, object] = {"auth_failure_rate": "1/day", "auth_failure_burst": 5}


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    """A server with the embedded one's eviction policy, and little memory."""
    policy = SETTINGS["maxmemory-policy"]
    with (
        tempfile.TemporaryDirectory(prefix="ts-") as folder,
        running_valkey(Path(folder), maxmemory_policy=policy) as server,
    ):
        used = server.ask("INFO", "memory")["used_memory"]
        server.ask("CONFIG", "SET", "maxmemory", used + ROOM_BYTES)
        yield server


def press(valkey: OwnValkey) -> None:
    """Write answers until many were evicted."""
    with Redis(unix_socket_path=str(valkey.socket)) as redis:
        evicted = redis.info("stats")["evicted_keys"]
        for number in range(10 * ROOM_BYTES // len(ANSWER)):
            with redis.pipeline(transaction=False) as pipeline:
                for part in range(50):
                    pipeline.set(f"press:{number}:{part}", ANSWER, ex=3_600)
                pipeline.execute()
            if redis.info("stats")["evicted_keys"] > evicted + 10_000:
                return
    raise AssertionError("it never was short of memory")


def fill_up(valkey: OwnValkey) -> None:
    """Leave the server no memory and nothing to evict, so that it refuses writes."""
    valkey.ask("CONFIG", "SET", "maxmemory", "1")


async def statuses(client: Client, count: int) -> Counter[int]:
    """Send this many requests at once and count the statuses."""
    answers = await asyncio.gather(*(client.get("/v1/accounts/nobody") for _ in range(count)))
    return Counter(answer.status for answer in answers)


async def fail(service: Service) -> int:
    """Send a request without a key."""
    return (await Client(service.session, service.url, None).get("/v1/accounts")).status


async def test_memory_pressure_changes_no_limit(database_url: str, valkey: OwnValkey) -> None:
    """
    Under memory pressure, used-up limits of keys and of a ledger stay used up. Answers and accounts are evicted, and
    then read from PostgreSQL.
    """
    async with in_process(database_url, valkey.url, ledger_rate="1/day", ledger_burst=100) as service:
        used, half = await limited(service, "used", once(20)), await limited(service, "half", once(40))
        assert await statuses(used, 30) == {404: 20, 429: 10}
        assert await statuses(half, 25) == {404: 25}
        whole = await limited(service, "whole", once(1_000))
        assert await statuses(whole, 110) == {404: 100, 429: 10}
        posting = await limited(service, "posting", once(1_000))
        await posting.fund("alice", 100)
        first = await posting.transfer("alice", "world", 1, "k")
        await asyncio.to_thread(press, valkey)
        assert await statuses(used, 10) == {429: 10}
        assert await statuses(half, 20) == {404: 15, 429: 5}
        assert await statuses(whole, 10) == {429: 10}
        assert valkey.ask("INFO", "stats")["evicted_keys"] > 0
        again = await posting.transfer("alice", "world", 1, "k")
        assert (again.body, again.replayed) == (first.body, True)
        assert await posting.balance("alice") == 99
        assert service.app is not None
        assert not service.app.redis.away


async def test_memory_pressure_changes_no_limit_of_an_address(database_url: str, valkey: OwnValkey) -> None:
    """Under memory pressure, an address that has used up its failures has none left."""
    async with in_process(database_url, valkey.url, **SLOW) as service:
        assert [await fail(service) for _ in range(6)] == [401] * 5 + [429]
        await asyncio.to_thread(press, valkey)
        assert [await fail(service) for _ in range(2)] == [429] * 2


async def test_nothing_is_free_when_nothing_can_be_evicted(database_url: str, valkey: OwnValkey) -> None:
    """
    If Redis refuses every write, no request is free: each worker admits its share alone, as while Redis is away, and
    every request is answered.
    """
    async with in_process(database_url, valkey.url, **SLOW) as service:
        client, known = await limited(service, "full", once(30)), await limited(service, "full", once(1_000))
        await known.fund("alice", 100)
        assert await statuses(client, 20) == {404: 20}
        fill_up(valkey)
        counted: Counter[int] = Counter()
        for _ in range(10):
            counted += await statuses(client, 20)
        # The count in Redis is unknown then, so this worker admits its share of the limit once.
        assert counted == {404: 30, 429: 170}
        assert [await fail(service) for _ in range(7)] == [401] * 5 + [429] * 2
        posted = await known.transfer("alice", "world", 1, "k")
        assert posted.status == 201
        assert (await known.transfer("alice", "world", 1, "k")).body == posted.body
        assert await known.balance("alice") == 99


async def test_a_script_that_is_refused_has_taken_nothing(valkey: OwnValkey) -> None:
    """
    Without memory, the scripts that take tokens fail at their first write: no lease is taken without the tokens of its
    request, and no token without an answer.
    """
    bucket, snapshot = b"bucket:{1}", b"snapshot:{1}"
    with Redis(unix_socket_path=str(valkey.socket)) as redis:
        gate = redis.script_load(script("gate").text)
        address = redis.script_load(script("address").text)

        def ask(cost: int) -> Any:
            """Take tokens from a bucket of ten, and look up a snapshot."""
            numbers = msgspec.msgpack.encode([1, 1, 10**12, 10**13, 1, 1, 1, cost, 1])
            return redis.evalsha(gate, 2, bucket, snapshot, "t", 1_000, numbers)[:2]

        def fail(name: str, cost: int) -> Any:
            """Take tokens from an address's bucket of ten."""
            return redis.evalsha(address, 2, "addresses", "addresses:full", name, 1, 10**12, 10**13, cost)

        assert ask(3) == [0, 7]
        assert fail("a", 3) == [0, 7]
        redis.delete(snapshot)
        fill_up(valkey)
        with pytest.raises(OutOfMemoryError):
            ask(1)
        for name in ("a", "b"):
            with pytest.raises(OutOfMemoryError):
                fail(name, 1)
        valkey.ask("CONFIG", "SET", "maxmemory", "0")
        assert not redis.exists(snapshot)
        assert ask(0) == [0, 7]
        assert (fail("a", 0), fail("b", 0)) == ([0, 7], [0, 10])


def test_full_buckets_make_room(valkey: OwnValkey) -> None:
    """Full buckets of addresses are removed even without memory, which frees memory."""
    with Redis(unix_socket_path=str(valkey.socket)) as redis:
        address = redis.script_load(script("address").text)
        for number in range(20):
            redis.evalsha(address, 2, "addresses", "addresses:full", f"a{number}", 1, 1, 1, 1)
        fill_up(valkey)
        for _ in range(10):
            redis.evalsha(address, 2, "addresses", "addresses:full", "asks", 1, 1, 1, 0)
        assert redis.hlen("addresses") == redis.zcard("addresses:full") == 0
