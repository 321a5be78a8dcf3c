"""One leader a database: it is followed within seconds by another process when it ends, freezes or is cut off."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.store.migrations import migrate
from tests.support.background import LEADS, WAITS, BackgroundProcess, leaders
from tests.support.books import check_books
from tests.support.command import call
from tests.support.holds import expiries, hold, stored
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import create_database, drop_database
from tests.support.service import in_process
from tests.support.waiting import until


class Pair:
    """Two processes, of which the first leads and the second waits."""

    def __init__(self, leader: BackgroundProcess, other: BackgroundProcess) -> None:
        self.leader = leader
        self.other = other


@pytest.fixture
async def pair(database_url: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """Start them one after the other."""
    processes = [BackgroundProcess(database_url, tmp_path / name) for name in ("first", "second")]
    try:
        for process in processes:
            await process.start()
        found = Pair(*processes)
        assert (found.leader.said(LEADS), found.leader.said(WAITS)) == (1, 0)
        assert (found.other.said(LEADS), found.other.said(WAITS)) == (0, 1)
        yield found
    finally:
        for process in processes:
            await process.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
async def test_the_leader_ends(pair: Pair, database_url: str, number: signal.Signals) -> None:
    """Another process leads then, and one alone."""
    pair.leader.kill(number)
    await until(lambda: pair.other.said(LEADS) == 1)
    assert await pair.leader.wait() == (0 if number == signal.SIGTERM else -number)
    assert await leaders(database_url) == 1


async def test_the_leader_freezes(pair: Pair, database_url: str) -> None:
    """Another process leads though the connection of the first is open; thawed, the first steps down by itself."""
    pair.leader.kill(signal.SIGSTOP)
    await until(lambda: pair.other.said(LEADS) == 1)
    pair.leader.kill(signal.SIGCONT)
    await until(lambda: pair.leader.said(WAITS) == 1)
    assert await leaders(database_url) == 1
    assert pair.leader.said(LEADS) == pair.other.said(LEADS) == 1
    pair.other.kill()
    await until(lambda: pair.leader.said(LEADS) == 2)


async def test_one_that_waits_and_freezes_is_no_leader_afterwards(pair: Pair) -> None:
    """It has lost its session too, and stands for election with another one."""
    pair.other.kill(signal.SIGSTOP)
    pair.leader.kill()
    assert await pair.leader.wait() == -signal.SIGKILL
    pair.other.kill(signal.SIGCONT)
    await until(lambda: pair.other.said(LEADS) == 1)


async def test_each_database_has_a_leader(template: str, pair: Pair, tmp_path: Path) -> None:
    """
    Both processes of a database are ready, one says that it leads, and the numbers are there to be scraped.

    The lock of one database says nothing about another on the same server.
    """
    for process, leads in ((pair.leader, True), (pair.other, False)):
        status, said = await process.ask("/readyz")
        assert (status, said["status"], said["background"]["leads"]) == (200, "ready", leads)
        status, page = await process.ask("/metrics")
        assert status == 200
        assert f"tallystick_background_leads {float(leads)}" in page
        assert "tallystick_holds_expired_total 0.0" in page
        assert await process.ask("/livez") == (200, {"status": "ok"})
    database_url = await create_database(template)
    third = BackgroundProcess(database_url, tmp_path / "third")
    try:
        await third.start()
        assert third.said(LEADS) == 1
        assert await leaders(database_url) == 1
    finally:
        await third.stop()
        await drop_database(template, database_url)


async def test_postgres_goes_and_comes_back(own_postgres: OwnPostgres, tmp_path: Path) -> None:
    """Without a session nobody leads; that is said once, and the process leads again by itself when there is one."""
    await migrate(own_postgres.database_url)
    process = BackgroundProcess(own_postgres.database_url, tmp_path / "log")

    async def unready() -> bool:
        status, said = await process.ask("/readyz")
        return (status, said["background"]["failures"]) == (503, ["Postgres cannot be reached"])

    try:
        await process.start()
        await until(lambda: process.said(LEADS) == 1)
        await own_postgres.crash()
        await until(lambda: process.said("cannot stand for election") == 1)
        # The answer before is kept for a second.
        await until(unready)
        own_postgres.start()
        await until(lambda: process.said(LEADS) == 2)
        assert process.said("cannot stand for election") == 1
    finally:
        await process.stop()


@pytest.mark.parametrize("given", [{}, {"redis_url": "redis://127.0.0.1:1"}, {"database_url": "postgresql://x@y/z"}])
async def test_without_an_address(given: dict[str, str]) -> None:
    """It works on servers that are named, and starts none; the sentence says what to set."""
    end = await call("background", **given)
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith("tallystick: background needs the PostgreSQL and Redis of the servers: set ")


async def test_what_the_leader_left_is_swept_once(pair: Pair, database_url: str) -> None:
    """Holds that become due while the leader is frozen are swept by the other; thawed, the first adds nothing."""
    async with in_process(database_url) as service:
        client = await service.client("left")
        await client.open("shop")
        await client.fund("alice", 1_000)
        holds = await hold(client, "alice", 50)
        pair.leader.kill(signal.SIGSTOP)
        holds += await hold(client, "alice", 50)

        async def swept() -> bool:
            return len(await expiries(database_url)) == len(holds)

        await until(swept)
        pair.leader.kill(signal.SIGCONT)
        await until(lambda: pair.leader.said(WAITS) == 1)
        assert await expiries(database_url) == sorted(holds)
        assert await stored(database_url) == 0
    await check_books(database_url)
