"""Waiting commands are sent once as one pipeline, and answered in order within one deadline."""

import asyncio
import time

import pytest

from server.store import redis
from server.store.redis import FLUSH_SECONDS, RedisAwayError, RedisServer
from server.store.scripts import script
from tests.redis.conftest import Connect
from tests.support.redis_proxy import RedisProxy
from tests.support.service import BOUND_SECONDS
from tests.support.valkey import OwnValkey
from tests.support.waiting import until


async def test_a_tick_leaves_as_one_piece(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """All commands of one turn of the loop arrive in one read on one connection, and each caller gets its own reply."""
    between, url = proxy
    client = connect(url)
    await client.submit(b"", ("PING",))
    between.pieces.clear()
    replies = await asyncio.gather(*(client.submit(b"", ("ECHO", b"%d" % n)) for n in range(200)))
    assert replies == [b"%d" % n for n in range(200)]
    assert (len(between.pieces), between.accepted) == (1, 1)


async def test_few_connections_carry_everything(
    valkey: OwnValkey, proxy: tuple[RedisProxy, str], connect: Connect
) -> None:
    """For any number of turns and callers, two connections are enough, and all replies are right."""
    between, url = proxy
    client = connect(url)

    async def caller(number: int) -> None:
        for turn in range(20):
            value = b"%d.%d" % (number, turn)
            assert await client.submit(b"", ("ECHO", value)) == value
            await asyncio.sleep(0)

    await asyncio.gather(*(caller(number) for number in range(100)))
    assert between.accepted <= 2
    assert len(between.pieces) < 400


async def test_one_deadline_for_all(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """Delayed replies do not make a flush last much longer than its deadline."""
    between, url = proxy
    client = connect(url, hasty=True)
    await client.submit(b"", ("PING",))
    between.delay_seconds = FLUSH_SECONDS * 4
    began = time.monotonic()
    answers = await asyncio.gather(*(client.submit(b"", ("PING",)) for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}
    assert time.monotonic() - began < BOUND_SECONDS


async def test_nothing_is_sent_twice(valkey: OwnValkey, proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """A command whose reply was lost or cut off is run exactly once."""
    between, url = proxy
    client = connect(url, hasty=True)
    for name, spoil in (("swallowed", []), ("cut", [None])):
        await client.submit(b"", ("PING",))
        between.spoil = lambda _, spoil=spoil: spoil
        with pytest.raises(RedisAwayError):
            await client.submit(b"", ("INCR", name))
        between.spoil = None
        assert await client.submit(b"", ("GET", name)) == b"1"
    assert valkey.calls("incr") == 2


async def test_scripts_that_were_forgotten(valkey: OwnValkey, client: RedisServer) -> None:
    """
    After SCRIPT FLUSH, the scripts of a flush are sent again with their texts, and its other commands are not repeated.
    """
    fill = script("fill").call([b"nothing"], b"token", 1, b"S1 body", 1000)
    assert await client.submit(b"", fill) == 0
    valkey.ask("SCRIPT", "FLUSH")
    commands = [fill, ("INCR", "n"), fill, ("INCR", "n"), ("ECHO", b"last")]
    replies = await asyncio.gather(*(client.submit(b"", command) for command in commands))
    assert replies == [0, 1, 0, 2, b"last"]
    assert await client.submit(b"", fill) == 0
    assert valkey.calls("eval") >= 2
    assert not client.away


async def test_the_queue_is_bounded(client: RedisServer) -> None:
    """Commands beyond the queue's limit are refused at once; those in the queue are answered."""
    taken = [client.submit(b"", ("ECHO", b"%d" % n)) for n in range(redis.QUEUE_MAX)]
    with pytest.raises(RedisAwayError):
        client.submit(b"", ("PING",))
    assert await asyncio.gather(*taken) == [b"%d" % n for n in range(redis.QUEUE_MAX)]
    assert await client.submit(b"", ("PING",)) == b"PONG"


async def test_closing_answers_what_is_away(valkey: OwnValkey, connect: Connect) -> None:
    """Commands submitted before the close are answered; afterwards no connection is left and commands are refused."""
    client = connect(valkey.url)
    waiting = [client.submit(b"", ("ECHO", b"%d" % n)) for n in range(3_000)]
    await client.close()
    assert [await future for future in waiting] == [b"%d" % n for n in range(3_000)]
    await until(lambda: valkey.ask("CLIENT", "LIST").count(b"\n") == 1)
    with pytest.raises(RedisAwayError):
        client.submit(b"", ("PING",))


async def test_closing_does_not_wait_for_the_silent(valkey: OwnValkey, connect: Connect) -> None:
    """A client that is closed while the server is silent closes within the deadlines of its commands."""
    client = connect(valkey.url, hasty=True)
    await client.submit(b"", ("PING",))
    with valkey.frozen():
        waiting = [client.submit(b"", ("PING",)) for _ in range(3_000)]
        began = time.monotonic()
        await client.close()
        assert time.monotonic() - began < BOUND_SECONDS
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}
