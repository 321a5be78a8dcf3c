"""A server that is told to stop under load answers every request definitely; told twice, it stops at once."""

import asyncio
import errno
import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
import yarl

from server.process.worker import STOP_IDLE_SECONDS
from tests.support.client import Client
from tests.support.history import History
from tests.support.locks import held, somebody_waits
from tests.support.postgres import administer
from tests.support.service import ServerProcess, in_process, make_key
from tests.support.waiting import WAIT_SECONDS, until

LEDGER = "shutdown"
# Seconds in which a server that is told twice must be gone: far less than it takes to finish its requests.
AT_ONCE_SECONDS = 3.0


class Running(NamedTuple):
    """A server process in which `alice` has money and `bob` has none."""

    server: ServerProcess
    client: Client
    history: History


@pytest.fixture
async def running(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """Start a server with one worker, or with as many as the test asks for; stop it if the test has not."""
    workers = getattr(request, "param", 1)
    server = ServerProcess(database_url, tmp_path / "server.log", {"TALLYSTICK_WORKERS": str(workers)})
    token = await make_key(database_url, LEDGER)
    try:
        await server.start()
        await server.workers()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client = Client(session, server.url, token)
            await client.fund("alice", 1_000_000)
            await client.open("bob")
            yield Running(server, client, History(database_url, LEDGER))
    finally:
        await server.stop()


@pytest.mark.parametrize("running", [pytest.param(2, id="two workers")], indirect=True)
async def test_told_to_stop_under_load(running: Running) -> None:
    """
    Every request that reached the server gets a definite answer; afterwards connections are refused.

    Half of the clients keep their connections, and the others open one for each request.
    """
    server, client, history = running
    chance = random.Random(7)

    async def work(session: aiohttp.ClientSession, number: int) -> None:
        own = Client(session, client.url, client.token)
        for count in range(100_000):
            if await history.transfer(own, f"work-{number}-{count}", "alice", "bob", 1) is None:
                return
            if number % 2:
                await asyncio.sleep(chance.uniform(0, 0.02))

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as keeping,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as closing,
    ):
        workers = asyncio.gather(*(work(keeping if number < 20 else closing, number) for number in range(40)))
        await until(lambda: history.count("posted") >= 200)
        server.kill(signal.SIGTERM)
        async with asyncio.timeout(WAIT_SECONDS):
            await workers
    assert await server.wait() == 0
    assert len(history.errors) == 40
    assert {type(error) for error in history.errors} == {aiohttp.ClientConnectorError}, history.errors
    # Apart from the refused connections, which ended the clients, every request got a final answer.
    assert history.count("unknown") == 40
    assert history.count("posted") == len(history.operations) - 40
    await history.check()


async def test_idle_connections_are_kept_for_a_while(running: Running) -> None:
    """A balancer that has not noticed the stop may still send a request on an idle connection for a while."""
    server, client, _ = running
    url = yarl.URL(client.url)
    address = (url.host, url.port)
    with socket.create_connection(address) as idle:
        idle.setblocking(False)
        began = time.monotonic()
        server.kill(signal.SIGTERM)
        await until(partial(refused, address))
        answer = await client.get("/v1/accounts/alice")
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        async with asyncio.timeout(WAIT_SECONDS):
            assert await asyncio.get_running_loop().sock_recv(idle, 1) == b""
        assert time.monotonic() - began > STOP_IDLE_SECONDS
    assert await server.wait() == 0


def refused(address: tuple[str | None, int | None]) -> bool:
    """Whether nothing listens at the address any more."""
    with socket.socket() as probe:
        return probe.connect_ex(address) == errno.ECONNREFUSED


async def test_told_to_stop_while_postings_run(running: Running, database_url: str) -> None:
    """Postings under way when the signal comes are finished and answered before the server ends."""
    server, client, history = running
    async with held(database_url, "alice"):
        sending = [asyncio.create_task(history.transfer(client, f"running-{n}", "alice", "bob", 1)) for n in range(20)]
        await until(partial(somebody_waits, database_url))
        server.kill(signal.SIGTERM)
        await asyncio.sleep(0.5)
    async with asyncio.timeout(WAIT_SECONDS):
        answers = await asyncio.gather(*sending)
    assert {answer.status for answer in answers if answer is not None} == {201}
    assert history.count("posted") == 20
    assert await server.wait() == 0
    await history.check()


async def test_told_to_stop_while_a_bulk_runs(running: Running, database_url: str) -> None:
    """The two batches of a bulk share one deadline, so its caller is answered before the server ends."""
    server, client, history = running
    await client.fund("carol", 1_000)
    # A batch takes 500 items: the first batch waits for alice, the second for carol.
    names = ["alice"] * 500 + ["carol"] * 500
    asked = [{"key": f"item-{n}", "source": name, "destination": "bob", "amount": 1} for n, name in enumerate(names)]
    async with held(database_url, "carol"):
        async with held(database_url, "alice"):
            sending = asyncio.create_task(history.bulk(client, asked, atomic=False))
            await until(partial(somebody_waits, database_url))
            server.kill(signal.SIGTERM)
            # Most of the deadline passes in the first batch.
            await asyncio.sleep(3.0)
        async with asyncio.timeout(WAIT_SECONDS):
            answer = await sending
            assert await server.wait() == 0
    assert answer is not None
    assert (answer.status, answer.json["outcome"], answer.json["retry"]) == (503, "unknown", "same_key")
    assert await posted(database_url) == 500


async def posted(database_url: str) -> int:
    """Return how many items of the bulk are posted."""
    rows = await administer(
        database_url, "SELECT count(*) AS n FROM tallystick.transfers WHERE idempotency_key LIKE 'item-%'"
    )
    return int(rows[0]["n"])


async def test_told_twice_it_stops_at_once(running: Running, database_url: str) -> None:
    """A second signal stops the server at once; retries with the same keys then tell the outcomes."""
    server, client, history = running
    async with held(database_url, "alice"):
        sending = [asyncio.create_task(history.transfer(client, f"twice-{n}", "alice", "bob", 1)) for n in range(5)]
        await until(partial(somebody_waits, database_url))
        server.kill(signal.SIGTERM)
        await asyncio.sleep(0.1)
        server.kill(signal.SIGTERM)
        async with asyncio.timeout(AT_ONCE_SECONDS):
            assert await server.wait() != 0
        await asyncio.gather(*sending)
    async with in_process(database_url) as after:
        await history.settle(Client(after.session, after.url, client.token))
    await history.check()
