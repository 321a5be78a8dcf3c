"""A Postgres that is known to be away is not waited for, and is used again by itself once it is back."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from server.gate.keys import Authenticator
from server.ledger import posting
from server.store.breaker import FAILURES_MAX
from server.store.errors import StoreAwayError, StoreUnavailableError
from server.store.migrations import migrate
from server.store.postgres import Database
from tests.support.client import Answer, Client
from tests.support.history import History
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import administer
from tests.support.proxy import Proxy, proxied
from tests.support.service import Service, in_process, make_key
from tests.support.waiting import until

LEDGER = "breaker"
# Seconds in which a request is answered that does not wait.
AT_ONCE_SECONDS = 2.0
# Seconds in which the service must work again.
BACK_SECONDS = 45.0


class Line(NamedTuple):
    """A service that reaches Postgres only through a proxy."""

    proxy: Proxy
    client: Client
    history: History


@pytest.fixture
async def line(database_url: str, redis_url: str, sockets: Path) -> AsyncIterator[Line]:
    """A running service in which `alice` has money and `bob` has none."""
    async with proxied(database_url, sockets) as (proxy, through), in_process(through, redis_url) as service:
        client = Client(service.session, service.url, await make_key(database_url, LEDGER))
        await client.fund("alice", 1_000)
        await client.open("bob")
        yield Line(proxy, client, History(database_url, LEDGER))


def refused(answer: Answer) -> bool:
    """Whether a write was refused with the right outcome and advice."""
    told = answer.json
    return (
        (answer.status, told["code"], told["outcome"], told["retry"]) == (503, "unavailable", "not_applied", "same_key")
    ) and answer.headers["Retry-After"].isdigit()


async def opened(client: Client) -> None:
    """Send writes until one is refused at once, because the breaker is open."""

    async def quick() -> bool:
        began = time.monotonic()
        answer = await client.transfer("alice", "bob", 1, "test-probing")
        return answer.status == 503 and time.monotonic() - began < AT_ONCE_SECONDS / 5

    await until(quick)


async def test_away_and_back(own_postgres: OwnPostgres, redis_url: str) -> None:
    """
    After a crash, writes and reads that need Postgres are refused at once, while cached reads and health checks are
    answered. After a restart the service works again by itself, and the refused keys work.
    """
    await migrate(own_postgres.database_url)
    async with in_process(own_postgres.database_url, redis_url) as service:
        client = await service.client(LEDGER)
        await client.fund("alice", 100)
        await client.open("bob")
        first = await client.transfer("alice", "bob", 1, "before")
        await service.reads_snapshots()
        for _ in range(2):
            assert await client.balance("alice") == 99
        await own_postgres.crash()
        await asyncio.gather(*(client.get(f"/v1/accounts/none-{n}") for n in range(FAILURES_MAX)))
        await opened(client)

        async def timed(number: int) -> tuple[Answer, float]:
            began = time.monotonic()
            answer = await client.transfer("alice", "bob", 1, f"refused-{number}")
            return answer, time.monotonic() - began

        writes = [await timed(number) for number in range(50)]
        assert all(refused(answer) for answer, _ in writes)
        assert max(seconds for _, seconds in writes) < AT_ONCE_SECONDS
        began = time.monotonic()
        assert (await client.get("/v1/accounts/none")).status == 503
        assert (await client.get("/v1/transfers")).status == 503
        assert refused(await client.open("carol"))
        assert (await client.get("/readyz")).json["failures"] == ["Postgres cannot be reached"]
        assert (await client.get("/livez")).status == 200
        cached = await client.get("/v1/accounts/alice")
        assert (cached.status, cached.json["balance"]) == (200, 99)
        # A copy without this transfer may be about to be put back, so its replay waits until Postgres confirms it.
        assert refused(await client.transfer("alice", "bob", 1, "before"))
        assert time.monotonic() - began < AT_ONCE_SECONDS * 4
        own_postgres.start()

        async def back() -> bool:
            return (await client.transfer("alice", "bob", 1, "refused-0")).status == 201

        await until(back, BACK_SECONDS)
        again = await client.transfer("alice", "bob", 1, "before")
        assert (again.status, again.body, again.replayed) == (201, first.body, True)
        answers = await asyncio.gather(*(client.transfer("alice", "bob", 1, f"refused-{n}") for n in range(50)))
        assert {answer.status for answer in answers} == {201}
        # "test-probing" was refused while Postgres was away, and was not sent again.
        assert await client.balance("bob") == 51


async def test_silence_opens_it(line: Line) -> None:
    """The breaker also opens when statements and connections time out, and closes when the connection works again."""
    line.proxy.hang()
    waiting = [
        asyncio.create_task(line.history.transfer(line.client, f"silent-{n}-{m}", "alice", "bob", 1))
        for n in range(4)
        for m in range(4)
    ]
    await opened(line.client)
    assert refused(await line.client.transfer("alice", "bob", 1, "test-refused"))
    await asyncio.gather(*waiting)
    line.proxy.heal()

    async def back() -> bool:
        return (await line.client.transfer("alice", "bob", 1, "test-refused")).status == 201

    await until(back, BACK_SECONDS)
    await line.history.settle(line.client)
    await line.history.check()


async def test_what_was_lost_is_still_resolved(line: Line) -> None:
    """
    A posting whose reply was lost waits for Postgres until its deadline, while other requests are refused at once.
    """
    line.proxy.cut_at, line.proxy.cuts_left = b"lost-key", 1
    line.proxy.refuse = True
    lost = asyncio.create_task(line.history.transfer(line.client, "lost-key", "alice", "bob", 1))
    await until(lambda: line.proxy.cut == 1)
    line.proxy.cut_all()
    await opened(line.client)
    assert refused(await line.client.transfer("alice", "bob", 1, "test-never-sent"))
    await asyncio.sleep(0.5)
    assert not lost.done()
    line.proxy.heal()
    answer = await lost
    assert answer is not None
    assert (answer.status, answer.replayed) == (201, False)
    assert await line.client.balance("bob") == 1
    await line.history.check()


async def test_what_was_lost_for_good_stays_unknown(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open breaker does not turn a posting that may have been applied into `not_applied`."""
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 3.0)
    line.proxy.cut_at, line.proxy.cuts_left = b"lost-key", 1
    line.proxy.refuse = True
    lost = asyncio.create_task(line.history.transfer(line.client, "lost-key", "alice", "bob", 1))
    await until(lambda: line.proxy.cut == 1)
    line.proxy.cut_all()
    await opened(line.client)
    answer = await lost
    assert answer is not None
    assert (answer.status, answer.json["outcome"]) == (503, "unknown")
    line.proxy.heal()
    await line.history.settle(line.client)
    assert await line.client.balance("bob") == 1
    await line.history.check()


async def test_locks_and_a_busy_pool_do_not_open_it(database_url: str, service: Service) -> None:
    """Waits for row locks and for pool connections that time out do not open the breaker."""
    holder = await asyncpg.connect(database_url)
    async with Database(database_url, posting_connections=1, reading_connections=1) as database:
        await make_key(database_url, LEDGER)
        async with holder.transaction():
            await holder.execute("LOCK tallystick.ledgers IN ACCESS EXCLUSIVE MODE")
            for _ in range(FAILURES_MAX):
                with pytest.raises(StoreUnavailableError):
                    await database.write_once("ledger_by_name", LEDGER)

            async def waits() -> None:
                with pytest.raises(StoreUnavailableError):
                    async with database.posting():
                        raise AssertionError("the only connection is lent")

            async with database.posting():
                await asyncio.gather(*(waits() for _ in range(FAILURES_MAX + 1)))
        assert not database.away
        assert len(await database.read_once("ledger_by_name", LEDGER)) == 1
    await holder.close()


async def test_keys_that_are_known_stay_known(
    database_url: str, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Postgres is away, a known API key is trusted as long as a snapshot may be served, and no longer."""
    token = await make_key(database_url, LEDGER)
    async with (
        proxied(database_url, sockets) as (proxy, through),
        Database(through, posting_connections=1, reading_connections=1) as database,
    ):
        # Keys are not remembered while Postgres answers; while it is away they are trusted without limit at first, then
        # not at all.
        monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 0.0)
        monkeypatch.setattr("server.gate.keys.CACHE_AWAY_SECONDS", 3_600.0)
        authenticator = Authenticator(database)
        known = await authenticator.authenticate(token)
        proxy.refuse = True
        proxy.cut_all()
        while not database.away:
            with pytest.raises(StoreUnavailableError):
                await database.read_once("ledger_by_name", LEDGER)
        assert await authenticator.authenticate(token) is known
        monkeypatch.setattr("server.gate.keys.CACHE_AWAY_SECONDS", 0.0)
        with pytest.raises(StoreAwayError):
            await authenticator.authenticate(token)
        proxy.heal()
        await until(lambda: not database.away)
        await administer(database_url, "UPDATE tallystick.api_keys SET concurrency = 7")
        fresh = await authenticator.authenticate(token)
        assert fresh is not None
        assert fresh.concurrency == 7
