"""A server that was restarted, or took over from another, serves no snapshots for a while but everything else."""

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
from tests.redis.conftest import Connect
from tests.support.redis_proxy import RedisProxy
from tests.support.service import BOUND_SECONDS
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

SET = ("SET", "used", "1")
RUN = b"ab12"
# A quarantine that a test waits for, and one that lasts longer than any test.
SHORT_SECONDS = 2
ENDLESS_SECONDS = 3_600.0
# How early a timer of the loop may fire.
CLOCK_SECONDS = 0.002


@pytest.fixture(autouse=True)
def quarantine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the quarantine in seconds; at first there is none."""

    def lasts(seconds: float) -> None:
        monkeypatch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", seconds)

    lasts(0.0)
    return lasts


async def test_the_uptime_counts(valkey: OwnValkey, connect: Connect, quarantine: Callable[[float], None]) -> None:
    """
    While a server is in quarantine, commands work and snapshots are not served; afterwards they are. A new client
    serves them from the first answer on, unless the server took over from another one of a cluster.
    """
    quarantine(SHORT_SECONDS)
    first = connect(valkey.url)
    assert await first.submit(b"", SET) == b"OK"
    assert not first.serves_snapshots(b"")
    await until(lambda: first.serves_snapshots(b""))
    await until(lambda: int(valkey.ask("INFO", "server")["uptime_in_seconds"]) > SHORT_SECONDS)
    later, took_over = connect(valkey.url), RedisServer(valkey.url, took_over=True)
    for client in (later, took_over):
        assert not client.serves_snapshots(b"")
        assert await client.submit(b"", SET) == b"OK"
    assert (later.serves_snapshots(b""), took_over.serves_snapshots(b"")) == (True, False)
    await took_over.close()


async def test_a_restart(valkey: OwnValkey, client: RedisServer, quarantine: Callable[[float], None]) -> None:
    """
    A restarted server runs no command that was submitted before, serves no snapshots, and accepts an invalidation at
    once.
    """
    assert await client.submit(b"", SET) == b"OK"
    assert client.serves_snapshots(b"")
    quarantine(ENDLESS_SECONDS)
    valkey.stop()
    valkey.start()
    waiting = [client.submit(b"", ("INCR", "n")) for _ in range(3 * redis.FLUSH_COMMANDS_MAX)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}
    assert valkey.calls("incr") == 0
    assert not client.serves_snapshots(b"")
    assert not client.away
    valkey.stop()
    valkey.start()
    await client.invalidate({b"snapshot": 1}, {b"replay": b"answer"}, run=RUN, replay_seconds=60)
    assert valkey.ask("GET", "replay") == b"answer"
    assert not client.away


async def test_a_server_that_does_not_tell_its_run_id(valkey: OwnValkey, connect: Connect) -> None:
    """If INFO is forbidden, everything works except that snapshots are not used."""
    valkey.ask("ACL", "SETUSER", "quiet", "on", "nopass", "~*", "+@all", "-info")
    client = connect(valkey.tcp_url.replace("redis://", "redis://quiet:any@"))
    for _ in range(3):
        assert await client.submit(b"", SET) == b"OK"
        valkey.ask("CLIENT", "KILL", "USER", "quiet")
        await asyncio.sleep(0.02)
    assert not client.serves_snapshots(b"")
    assert not client.away


async def test_invalidations_outlast_accidents(
    valkey: OwnValkey, proxy: tuple[RedisProxy, str], connect: Connect
) -> None:
    """An invalidation whose replies are lost is sent again until it is answered or the server counts as away."""
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
    """An unanswered invalidation is retried after a pause, and there is no pause after the last attempt."""
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
    """A refused command is not retried, because the server would refuse it again."""
    valkey.ask("RPUSH", "list", "1")
    await client.submit(b"", SET)
    with pytest.raises(RedisAwayError):
        await client.invalidate({b"list": 1}, {}, run=RUN, replay_seconds=60)
    # The first attempt fails because the script is unknown; the second sends its text.
    assert valkey.calls("eval") == 1
    with pytest.raises(RedisAwayError):
        await client.submit(b"", script("invalidate").call([b"list"], 1, RUN, 1, 60))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_loop_that_was_held_up(valkey: OwnValkey, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """A reply that arrived in time counts, even if a blocked event loop reads it late."""
    run(_held_up(valkey))


async def _held_up(valkey: OwnValkey) -> None:
    client = RedisServer(valkey.url)
    await client.submit(b"", SET)
    for _ in range(10):
        with valkey.frozen():
            asked = client.submit(b"", ("GET", "used"))
            # The flush begins, takes a connection, and sends the command.
            for _ in range(10):
                await asyncio.sleep(0)
        time.sleep(redis.FLUSH_SECONDS * 2)  # noqa: ASYNC251 -- the very thing that must do no harm
        assert await asked == b"1"
    assert client.breaker._failures == 0
    await client.close()
