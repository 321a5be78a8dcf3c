"""No caller ever gets the reply to another command, whatever happens on the connection."""

import asyncio
import contextlib
import random

import pytest

from server.store import redis
from server.store.deadline import ARRIVED_SECONDS
from server.store.redis import RedisAwayError, RedisServer
from tests.redis.conftest import Connect
from tests.support.redis_proxy import RedisProxy
from tests.support.service import BOUND_SECONDS
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

EXTRA = b"$5\r\nother\r\n"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker that does not open, so that every flush is sent."""
    monkeypatch.setattr("server.store.breaker.FAILURES_MAX", 1_000_000)


async def test_an_extra_reply_in_front(proxy: tuple[RedisProxy, str], connect: Connect, patient: None) -> None:
    """An extra reply before those of a flush fails the flush; the next flush has a new connection."""
    between, url = proxy
    client = connect(url)
    await client.submit(b"", ("PING",))
    between.spoil = lambda piece: [EXTRA + piece]
    answers = await asyncio.gather(*(client.submit(b"", ("ECHO", b"%d" % n)) for n in range(5)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}
    between.spoil = None
    assert await client.submit(b"", ("ECHO", b"mine")) == b"mine"
    assert between.accepted == 2


async def test_an_extra_reply_behind(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """An extra reply after those of a flush is dropped, and its connection is not used again."""
    between, url = proxy
    client = connect(url)
    await client.submit(b"", ("PING",))
    between.spoil = lambda piece: [piece + EXTRA]
    assert await client.submit(b"", ("ECHO", b"first")) == b"first"
    between.spoil = None
    assert await client.submit(b"", ("ECHO", b"second")) == b"second"
    assert between.accepted == 2


async def test_an_extra_reply_while_nothing_is_asked(proxy: tuple[RedisProxy, str], connect: Connect) -> None:
    """Data on an idle connection ends the connection, and callers do not notice."""
    between, url = proxy
    client = connect(url)
    await client.submit(b"", ("PING",))
    between.say(EXTRA)
    await asyncio.sleep(0.05)
    assert await client.submit(b"", ("ECHO", b"mine")) == b"mine"
    assert between.accepted == 2


async def test_a_missing_reply(proxy: tuple[RedisProxy, str], connect: Connect, patient: None) -> None:
    """If one reply of a flush is missing, all callers of the flush learn that Redis is away."""
    between, url = proxy
    client = connect(url, hasty=True)
    await client.submit(b"", ("PING",))
    between.spoil = lambda piece: [piece.replace(b"$1\r\n1\r\n", b"")]
    answers = await asyncio.gather(*(client.submit(b"", ("ECHO", b"%d" % n)) for n in range(3)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}


async def test_as_many_replies_and_not_the_right_ones(
    proxy: tuple[RedisProxy, str], connect: Connect, patient: None
) -> None:
    """
    If one reply is missing and a foreign one follows, the flush fails and its connection ends, although the count is
    right.
    """
    between, url = proxy
    client = connect(url)
    await client.submit(b"", ("PING",))
    between.spoil = lambda piece: [piece.replace(b"$1\r\n0\r\n", b"") + EXTRA]
    answers = await asyncio.gather(*(client.submit(b"", ("ECHO", b"%d" % n)) for n in range(3)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisAwayError}
    between.spoil = None
    assert await client.submit(b"", ("ECHO", b"mine")) == b"mine"
    assert between.accepted == 2


async def test_replies_that_come_too_late(proxy: tuple[RedisProxy, str], connect: Connect, patient: None) -> None:
    """Replies after the deadline reach no caller."""
    between, url = proxy
    client = connect(url, hasty=True)
    await client.submit(b"", ("PING",))
    between.delay_seconds = (redis.FLUSH_SECONDS + ARRIVED_SECONDS) * 1.2
    with pytest.raises(RedisAwayError):
        await client.submit(b"", ("ECHO", b"late"))
    between.delay_seconds = 0.0
    for turn in range(50):
        assert await client.submit(b"", ("ECHO", b"%d" % turn)) == b"%d" % turn
        await asyncio.sleep(0.002)


async def test_callers_that_leave(client: RedisServer) -> None:
    """Callers that are cancelled at any moment do not affect the other callers."""

    async def caller(number: int) -> None:
        value = b"%d" % number
        assert await client.submit(b"", ("ECHO", value)) == value

    chance = random.Random(2)
    for turn in range(100):
        tasks = [asyncio.create_task(caller(turn * 100 + n)) for n in range(40)]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        leaving = chance.sample(tasks, 20)
        for task in leaving:
            task.cancel()
        stayed = [task for task in tasks if task not in leaving]
        assert await asyncio.gather(*stayed) == [None] * 20
        await asyncio.gather(*leaving, return_exceptions=True)
    assert not client.away


async def test_flushes_that_are_cancelled(proxy: tuple[RedisProxy, str], patient: None) -> None:
    """A flush that is cancelled half-way closes its connection, so that its replies reach no caller."""
    between, url = proxy
    # Only the cancelled flushes may fail, however busy the machine is.
    client = RedisServer(url, None, BOUND_SECONDS)
    between.delay_seconds = 0.005
    for turn in range(40):
        opened = between.accepted
        flight = asyncio.create_task(client._flush([(0, ("ECHO", b"abandoned"))] * 3))
        await asyncio.sleep(0.004)
        flight.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flight
        assert await client.submit(b"", ("ECHO", b"%d" % turn)) == b"%d" % turn
        assert between.accepted > opened
    await client.close()


async def test_a_line_that_breaks_everything(
    proxy: tuple[RedisProxy, str], connect: Connect, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    When the connection adds, repeats, cuts and holds back replies of hundreds of interleaved flushes, each caller gets
    its own reply or none.
    """
    between, url = proxy
    monkeypatch.setattr(redis, "FLUSH_SECONDS", 0.02)
    client = connect(url, hasty=True)
    chance = random.Random(3)
    spoilt: dict[str, int] = {}

    def spoil(piece: bytes) -> list[bytes | None]:
        middle = chance.randrange(1, len(piece) + 1)
        ways: dict[str, list[bytes | None]] = {
            "added in front": [EXTRA, piece],
            "added behind": [piece, EXTRA],
            "repeated": [piece, piece],
            "cut in the middle": [piece[:middle], None],
            "cut before": [None],
            "swallowed": [],
            "torn": [piece[:middle], piece[middle:]],
        }
        name = chance.choice([*ways, *["whole"] * 5])
        spoilt[name] = spoilt.get(name, 0) + 1
        return ways.get(name, [piece])

    between.spoil = spoil
    heard = lost = 0

    async def caller(number: int) -> None:
        nonlocal heard, lost
        for turn in range(30):
            value = b"%d.%d" % (number, turn)
            try:
                assert await client.submit(b"", ("ECHO", value)) == value
                heard += 1
            except RedisAwayError:
                lost += 1
            await asyncio.sleep(chance.uniform(0, 0.004))

    await asyncio.gather(*(caller(number) for number in range(20)))
    assert sum(spoilt.values()) > 100
    assert len(spoilt) == 8
    assert min(heard, lost) > 50
    between.spoil = None

    async def well() -> bool:
        with contextlib.suppress(RedisAwayError):
            return bool(await client.submit(b"", ("ECHO", b"well")) == b"well")
        return False

    await until(well)


async def test_idle_connections_that_died(valkey: OwnValkey, client: RedisServer) -> None:
    """Connections that the server closed, one by one or by ending, are replaced without a failure."""
    for _ in range(5):
        assert await client.submit(b"", ("PING",)) == b"PONG"
        valkey.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.02)
    valkey.stop()
    valkey.start()
    await asyncio.sleep(0.02)
    with pytest.raises(RedisAwayError):
        # The command was meant for the server that has ended.
        await client.submit(b"", ("PING",))
    assert await client.submit(b"", ("PING",)) == b"PONG"
    valkey.ask("CONFIG", "SET", "timeout", "1")
    await until(lambda: not client._connections._idle[0].usable)
    assert await client.submit(b"", ("PING",)) == b"PONG"
    assert client.breaker._failures == 0
