"""A server that was started a moment ago, or has taken another's place, is used for all but snapshots."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
import uvloop

from server.store import redis
from server.store.redis import RedisAwayError, RedisServer
from server.store.scripts import script
from tests.support.redis_proxy import RedisProxy
from tests.support.service import BOUND_SECONDS
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

Connect = Callable[[str], RedisServer]
SET = ("SET", "used", "1")
RUN = b"ab12"
# Long enough for what a test does with a server that is too young.
SHORT_SECONDS = 4
# By which a timer of the loop may be early.
CLOCK_SECONDS = 0.002


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarantine that tests can wait for."""
    monkeypatch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", SHORT_SECONDS)


@pytest.fixture
async def grown(valkey: OwnValkey) -> OwnValkey:
    """A server that has been up for as long as it takes."""
    await until(lambda: int(valkey.ask("INFO", "server")["uptime_in_seconds"]) > SHORT_SECONDS, 30)
    return valkey


async def test_a_young_server_grows_up(client: RedisServer) -> None:
    """What reads or stores no snapshot works at once, what does works once the server is old enough."""
    assert not client.serves_snapshots(b"")
    assert await client.submit(b"", SET) == b"OK"
    assert not client.serves_snapshots(b"")
    await until(lambda: client.serves_snapshots(b""))


async def test_a_restart(grown: OwnValkey, client: RedisServer) -> None:
    """
    A server that has long been up is trusted from the first answer on; started anew it runs nothing that was meant for
    it before, of whatever waited, is not trusted, and takes an invalidation at the first call.
    """
    assert await client.submit(b"", SET) == b"OK"
    trusted = client.serves_snapshots(b"")
    assert trusted
    grown.stop()
    grown.start()
    waiting = [client.submit(b"", ("INCR", "n")) for _ in range(3 * redis.FLUSH_COMMANDS_MAX)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}
    assert grown.calls("incr") == 0
    assert not client.serves_snapshots(b"")
    assert not client.away
    grown.stop()
    grown.start()
    await client.invalidate({b"snapshot": 1}, {b"replay": b"answer"}, run=RUN, replay_seconds=60)
    assert grown.ask("GET", "replay") == b"answer"
    assert not client.away


async def test_one_that_takes_anothers_place(grown: OwnValkey) -> None:
    """Where a server is new to a cluster, how long it has been up counts for nothing."""
    client = RedisServer(grown.url, newcomer=True)
    assert await client.submit(b"", SET) == b"OK"
    assert not client.serves_snapshots(b"")
    await client.close()


async def test_one_that_does_not_say_who_it_is(grown: OwnValkey, connect: Connect) -> None:
    """Where INFO is forbidden, everything else works and snapshots are left alone."""
    grown.ask("ACL", "SETUSER", "quiet", "on", "nopass", "~*", "+@all", "-info")
    client = connect(grown.tcp_url.replace("redis://", "redis://quiet:any@"))
    for _ in range(3):
        assert await client.submit(b"", SET) == b"OK"
        grown.ask("CLIENT", "KILL", "USER", "quiet")
        await asyncio.sleep(0.02)
    assert not client.serves_snapshots(b"")
    assert not client.away


async def test_invalidations_outlast_accidents(
    valkey: OwnValkey, proxy: tuple[RedisProxy, str], connect: Connect
) -> None:
    """An invalidation whose replies are lost is sent again, until it is answered or the server counts as away."""
    between, url = proxy
    client = connect(url)
    lost = iter((None, None))
    await client.submit(b"", SET)
    between.spoil = lambda piece: [next(lost, piece)]
    await client.invalidate({}, {b"replay": b"answer"}, run=RUN, replay_seconds=60)
    assert valkey.ask("GET", "replay") == b"answer"
    between.spoil = lambda _: [None]
    with pytest.raises(RedisAwayError):
        await client.invalidate({}, {b"replay": b"other"}, run=RUN, replay_seconds=60)
    assert client.away


async def test_between_two_attempts_is_a_pause() -> None:
    """What got no answer is sent again after a moment, and after the last attempt nobody waits."""
    sent: list[float] = []

    async def send() -> None:
        sent.append(time.monotonic())
        raise RedisAwayError

    with pytest.raises(RedisAwayError):
        await redis.send_until_answered(send)
    ended = time.monotonic()
    assert len(sent) == redis.INVALIDATION_ATTEMPTS_MAX
    pauses = [later - earlier for earlier, later in pairwise(sent)]
    assert all(pause >= redis.INVALIDATION_PAUSE_SECONDS / 2 - CLOCK_SECONDS for pause in pauses), pauses
    assert sum(pauses) < len(pauses) * redis.INVALIDATION_PAUSE_SECONDS + BOUND_SECONDS
    assert ended - sent[-1] < min(pauses)


async def test_a_refusal_is_final(valkey: OwnValkey, client: RedisServer) -> None:
    """What a server refuses it would refuse again: it is asked once."""
    valkey.ask("RPUSH", "list", "1")
    await client.submit(b"", SET)
    with pytest.raises(RedisAwayError):
        await client.invalidate({b"list": 1}, {}, run=RUN, replay_seconds=60)
    # The script is not known at first, and comes along the second time.
    assert valkey.calls("eval") == 1
    with pytest.raises(RedisAwayError):
        await client.submit(b"", script("invalidate").call([b"list"], 1, RUN, 1, 60))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_loop_that_was_held_up(valkey: OwnValkey, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """An answer that came in time and lies unread counts, however late the loop comes to read it."""
    run(_held_up(valkey))


async def _held_up(valkey: OwnValkey) -> None:
    client = RedisServer(valkey.url)
    await client.submit(b"", SET)
    for _ in range(10):
        with valkey.frozen():
            asked = client.submit(b"", ("GET", "used"))
            # It departs, takes a connection, and is sent.
            for _ in range(10):
                await asyncio.sleep(0)
        time.sleep(redis.FLUSH_SECONDS * 2)  # noqa: ASYNC251 -- the very thing that must do no harm
        assert await asked == b"1"
    assert client.breaker._failures == 0
    await client.close()
