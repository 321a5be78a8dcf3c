"""
If the primary is lost and its synchronous standby promoted, the service goes on and no acknowledged transfer is lost.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from server.store.migrations import migrate
from tests.deploy.conftest import short_folder
from tests.support.books import verdict
from tests.support.client import Client
from tests.support.command import call
from tests.support.history import RETRY_SECONDS, History
from tests.support.locks import held
from tests.support.postgres import administer
from tests.support.replication import Replicated, replicated
from tests.support.service import ServerProcess, in_process, make_key
from tests.support.waiting import until

LEDGER = "failover"
CALLERS = 8
# Transfers that wait for the standby, and how often each is sent.
ASKERS = 3
ATTEMPTS = 2
# Seconds that each attempt waits.
WAIT_SECONDS = 2.0
# Transfers acknowledged before the primary is lost, and after writes work again.
STEADY = 100
# Seconds in which writes must work after the promotion. The promise is 10, but the machine may be busy with other
# tests.
BACK_SECONDS = 30.0
# Whether all transfers are in the feed, in positions without a gap.
_TOLD = """
    SELECT (SELECT count(*) FROM tallystick.outbox) = 0
       AND (SELECT sum(size) FROM tallystick.feed WHERE account IS NULL) = (SELECT count(*) FROM tallystick.transfers)
       AND (SELECT sum(size) = max(position) FROM tallystick.feed) AS told
"""
# Seconds in which each answer must come, whatever is lost: a little more than the deadline of a posting.
ANSWER_SECONDS = 15.0


class Served(NamedTuple):
    """Both database servers, a client of the service, and its history."""

    both: Replicated
    client: Client
    history: History


@asynccontextmanager
async def migrated(folder: Path) -> AsyncIterator[Replicated]:
    """Start both database servers with an empty ledger."""
    with replicated(folder) as both:
        await both.start()
        await migrate(both.database_url)
        yield both


async def furnished(both: Replicated, client: Client, ledger: str) -> Served:
    """Open `alice`, who has money, and `bob`, who has none."""
    await client.fund("alice", 1_000_000)
    assert (await client.open("bob")).status == 201
    return Served(both, client, History(both.standby.url(), ledger))


@pytest.fixture
async def served(folder: Path, redis_url: str) -> AsyncIterator[Served]:
    """A server process with both database servers in its address; the test may lose them."""
    async with migrated(folder) as both:
        token = await make_key(both.database_url, LEDGER)
        background = {"TALLYSTICK_BACKGROUND": "true"}
        server = ServerProcess(both.database_url, folder / "server.log", background, redis_url=redis_url)
        try:
            await server.start()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                yield await furnished(both, Client(session, server.url, token), LEDGER)
        finally:
            await server.stop()


@pytest.fixture(scope="module")
async def lasting() -> AsyncIterator[Replicated]:
    """Both database servers, which no test may lose."""
    with short_folder() as folder:
        async with migrated(folder) as both:
            yield both


@pytest.fixture
async def waiting(
    lasting: Replicated, redis_url: str, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """A service with a short deadline for postings that wait for the standby; the standby goes on afterwards."""
    monkeypatch.setattr("server.ledger.posting.DEADLINE_SECONDS", WAIT_SECONDS)
    async with in_process(lasting.database_url, redis_url) as service:
        try:
            yield await furnished(lasting, await service.client(ledger), ledger)
        finally:
            lasting.standby.thaw()


class Load:
    """Callers that each retry with the same key until a transfer is posted."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._stop = asyncio.Event()
        self.acknowledged = 0
        # Monotonic instant of the last acknowledgement, in seconds.
        self.last = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, count: int) -> None:
        """Return when *count* more transfers have been acknowledged."""
        goal = self.acknowledged + count
        await until(lambda: self.acknowledged >= goal, BACK_SECONDS)

    async def end(self) -> None:
        """Return when every caller has its answer."""
        self._stop.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks), BACK_SECONDS)

    async def _call(self, number: int) -> None:
        client, history = self._served.client, self._served.history
        for count in range(1_000_000):
            while True:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await history.transfer(client, f"call-{number}-{count}", "alice", "bob", 1)
                assert answer is not None, history.errors
                if verdict(answer) == "posted":
                    break
                # A refusal says whether the transfer was applied, and that the same key may be used again.
                assert answer.status == 503, answer
                assert answer.json["outcome"] in ("not_applied", "unknown"), answer
                assert answer.json["retry"] == "same_key", answer
                assert int(answer.headers["Retry-After"]) > 0, answer
                await asyncio.sleep(RETRY_SECONDS)
            self.acknowledged += 1
            self.last = time.monotonic()
            if self._stop.is_set():
                return


async def fail_over(served: Served, load: Load) -> None:
    """Promote the standby, wait until writes work, and check the books and the feed."""
    both, history = served.both, served.history
    lost = time.monotonic()
    await both.promote()
    promoted = time.monotonic()
    await load.more(1)
    back = load.last - promoted
    await load.more(STEADY)
    await load.end()
    unknown, refused = history.count("unknown"), history.count("not_applied")
    print(
        f"promotion took {promoted - lost:.2f} s; writes were back {back:.2f} s later; "
        f"{unknown} unknown, {refused} not applied, {load.acknowledged} acknowledged"
    )
    await history.settle(served.client)
    await history.check()
    assert await served.client.balance("bob") == load.acknowledged

    async def told() -> bool:
        return bool((await administer(both.standby.url(), _TOLD))[0]["told"])

    await until(told, BACK_SECONDS)
    ended = await call("audit", database_url=both.database_url)
    assert ended.code == 0, (ended.out, ended.err)
    assert (await served.client.get("/readyz")).status == 200


async def test_the_primary_is_lost(served: Served) -> None:
    """
    After a crash of the primary under load, the standby has every acknowledged transfer once, and writes need no
    restart.
    """
    async with Load(served) as load:
        await load.more(STEADY)
        served.both.primary.crash()
        await until(lambda: served.history.count("unknown", "not_applied") > 0)
        await fail_over(served, load)


async def test_the_primary_answers_no_more(served: Served) -> None:
    """
    A frozen primary, like a host that is cut off, refuses no connections, and the service still finds the standby.
    """
    async with Load(served) as load:
        await load.more(STEADY)
        served.both.primary.freeze()
        await until(lambda: served.history.count("unknown", "not_applied") > 0)
        await fail_over(served, load)


async def test_the_standby_is_away(waiting: Served) -> None:
    """While the standby does not confirm, nothing is acknowledged, even to retries; afterwards all transfers are."""
    client, history = waiting.client, waiting.history
    waiting.both.standby.freeze()
    keys = [f"waits-{number}" for number in range(ASKERS)]
    for _ in range(ATTEMPTS):
        answers = await asyncio.gather(*(history.transfer(client, key, "alice", "bob", 1) for key in keys))
        assert {verdict(answer) for answer in answers} <= {"unknown", "not_applied"}, answers
    waiting.both.standby.thaw()
    for key in keys:
        assert (await history.insist(client, key, "alice", "bob", 1)).status == 201
    await history.check()


@pytest.mark.parametrize("source", ["alice", "nobody"])
async def test_what_waits_for_the_standby_is_not_told_from_its_row(waiting: Served, source: str) -> None:
    """A retry is not answered from a row that only the primary has, even while its accounts are locked."""
    client, history = waiting.client, waiting.history
    waiting.both.standby.freeze()
    asked = (client, "waits", source, "bob", 1)
    assert verdict(await history.transfer(*asked)) == "unknown"
    async with held(waiting.both.primary.url(), "alice", "bob"):
        assert verdict(await history.transfer(*asked)) in ("unknown", "not_applied")
        waiting.both.standby.thaw()
        assert (await history.insist(*asked)).status == (201 if source == "alice" else 404)
