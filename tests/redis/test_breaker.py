"""A Redis that fails is no longer asked, and is used again by itself once it works."""

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import pytest
from redis import RedisError

from server.store.breaker import FAILURES_MAX
from server.store.redis import RedisAwayError, RedisRefusedError, RedisServer, invalidate_command
from server.store.scripts import script
from tests.redis.conftest import Connect
from tests.support.redis_proxy import RedisProxy
from tests.support.service import BOUND_SECONDS
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

RUN = b"ab12"


async def refused(client: RedisServer, *commands: tuple[bytes | str | int, ...]) -> None:
    """Send the commands one after the other; each must find Redis away, and at the end the breaker must be open."""
    for command in commands * FAILURES_MAX:
        with pytest.raises(RedisAwayError):
            await client.submit(b"", command)
    assert client.away


async def back(client: RedisServer) -> None:
    """Return when the client accepts writes again by itself."""
    await until(lambda: not client.away)
    assert await client.submit(b"", ("SET", "back", "1")) == b"OK"


async def probed_in_vain(valkey: OwnValkey) -> None:
    """Return when the server has refused two more probes."""

    def refusals() -> int:
        return int(valkey.ask("INFO", "commandstats").get("cmdstat_set", {}).get("rejected_calls", 0))

    before = refusals()
    await until(lambda: refusals() >= before + 2)


async def test_refused(valkey: OwnValkey, client: RedisServer) -> None:
    """A server that is stopped opens the breaker, and is used again after its restart."""
    assert await client.submit(b"", ("PING",)) == b"PONG"
    valkey.stop()
    await refused(client, ("PING",))
    valkey.start()
    await back(client)


async def test_silent(valkey: OwnValkey, connect: Connect) -> None:
    """A frozen server costs a few deadlines in total; after that no command waits for it."""
    client = connect(valkey.url, hasty=True)
    await client.submit(b"", ("PING",))
    with valkey.frozen():
        began = time.monotonic()
        await refused(client, ("PING",))
        assert time.monotonic() - began < BOUND_SECONDS
        began = time.monotonic()
        for _ in range(1_000):
            with pytest.raises(RedisAwayError):
                client.submit(b"", ("PING",))
        assert time.monotonic() - began < BOUND_SECONDS
    await back(client)


async def test_slow(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """A server whose replies take 200 ms stays away, because probes have the same deadline."""
    between, url = proxy
    client = connect(url, hasty=True)
    await client.submit(b"", ("PING",))
    between.delay_seconds = 0.2
    await refused(client, ("PING",))
    probed = between.accepted
    await until(lambda: between.accepted >= probed + 2)
    assert client.away
    between.delay_seconds = 0.0
    await back(client)


async def test_one_probe_at_a_time(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """While the breaker is open, only probes reach the server, a few a second."""
    between, url = proxy
    client = connect(url)
    between.refuse = True
    await refused(client, ("PING",))
    arrived, began = between.accepted, time.monotonic()
    while time.monotonic() - began < 1.0:
        with contextlib.suppress(RedisAwayError):
            await client.submit(b"", ("PING",))
        await asyncio.sleep(0.001)
    assert 2 <= between.accepted - arrived <= 9
    between.refuse = False
    await back(client)


async def test_one_success_starts_the_count_anew(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """Failures with successes between them never open the breaker."""
    between, url = proxy
    client = connect(url)
    for _ in range(FAILURES_MAX * 2):
        between.spoil = lambda _: [None]
        for _ in range(FAILURES_MAX - 1):
            with pytest.raises(RedisAwayError):
                await client.submit(b"", ("PING",))
        between.spoil = None
        assert await client.submit(b"", ("PING",)) == b"PONG"
    assert not client.away


async def test_out_of_memory(valkey: OwnValkey, client: RedisServer) -> None:
    """A full server that evicts nothing counts as away, in scripts too, until it accepts writes."""
    valkey.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    valkey.ask("CONFIG", "SET", "maxmemory", "1")
    store = script("invalidate").call([b"replay"], 0, RUN, 60, b"answer")
    await refused(client, store)
    # It answers PING but refuses writes.
    await probed_in_vain(valkey)
    assert client.away
    valkey.ask("CONFIG", "SET", "maxmemory", "0")
    await back(client)
    assert await client.submit(b"", store) == 1


async def test_read_only(valkey: OwnValkey, client: RedisServer, folder: Path) -> None:
    """A replica counts as away until it is promoted."""
    primary = OwnValkey(folder, repl_diskless_sync_delay="0")
    primary.start()
    try:
        valkey.ask("REPLICAOF", "127.0.0.1", primary.port)
        await until(lambda: b"link_status:up" in _replication(valkey))
        await refused(client, script("invalidate").call([b"replay"], 0, RUN, 60, b"answer"))
        await probed_in_vain(valkey)
        assert client.away
        valkey.ask("REPLICAOF", "NO", "ONE")
        await back(client)
    finally:
        primary.stop()


def _replication(valkey: OwnValkey) -> bytes:
    return b"link_status:" + str(valkey.ask("INFO", "replication").get("master_link_status")).encode()


async def test_loading(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """A server that is still loading its data counts as away."""
    between, url = proxy
    client = connect(url)
    between.spoil = lambda _: [b"-LOADING Redis is loading the dataset in memory\r\n"] * 4
    await refused(client, ("PING",))
    between.spoil = None
    await back(client)


async def test_busy_with_a_script(valkey: OwnValkey, client: RedisServer) -> None:
    """A server that is busy with an endless script counts as away."""
    valkey.ask("CONFIG", "SET", "busy-reply-threshold", "10")

    def spin() -> None:
        with contextlib.suppress(RedisError):
            valkey.ask("EVAL", "while true do end", 0)

    spinning = threading.Thread(target=spin)
    spinning.start()
    try:
        await asyncio.sleep(0.2)
        await refused(client, ("GET", "x"))
    finally:
        valkey.ask("SCRIPT", "KILL")
        spinning.join()
    await back(client)


async def test_a_broken_key_is_no_broken_server(valkey: OwnValkey, client: RedisServer) -> None:
    """A key of another type fails the commands that use it and no others."""
    valkey.ask("RPUSH", "list", "1")
    broken = [invalidate_command({b"list": 1}, {}, RUN, 60), script("fill").call([b"list"], b"t", 1, b"S1 x", 9)]
    for _ in range(FAILURES_MAX + 1):
        *lost, found = await asyncio.gather(
            *(client.submit(b"", command) for command in [*broken, ("ECHO", b"mine")]), return_exceptions=True
        )
        assert [type(answer) for answer in lost] == [RedisRefusedError] * 2
        assert found == b"mine"
    assert not client.away
