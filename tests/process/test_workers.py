"""Workers die, hang and are swapped under load: who is served by another does not notice, and no answer is lost."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web

from server.app import create_app
from server.process.listeners import open_listeners
from server.process.worker import accept_the_rest
from server.settings import Settings
from tests.process.process_table import is_alive, peers_of
from tests.process.short_timeouts import SILENCE_SECONDS
from tests.support.client import Client
from tests.support.history import History
from tests.support.service import NO_REDIS, ServerProcess, make_key, shared_server
from tests.support.waiting import until

WORKERS = 2
# Swaps of all workers under load: the second swaps workers that have themselves followed others.
SWAPS = 2
CLIENTS = 24
# The numbers of those that ask on the admin port, as balancers do: with a connection kept, and with one each time.
OPERATORS = (0, 2)
# Seconds a client lets pass between two requests, at most.
PAUSE_SECONDS = 0.15
# Seconds in which a worker is replaced on a machine busy with other tests.
REPLACED_SECONDS = 30.0

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Crew(NamedTuple):
    """A server process with its workers, and `alice`, who has money, and `bob`."""

    server: ServerProcess
    token: str
    history: History

    async def load(self, stop: asyncio.Event) -> list[str]:
        """
        Read and post until told to stop; return what went wrong, other than what the history knows.

        Half of the clients keep their connections, the others make one for each request.
        """
        wrong: list[str] = []

        async def work(number: int) -> None:
            chance = random.Random(number)
            connector = aiohttp.TCPConnector(force_close=number % 4 > 1)
            async with aiohttp.ClientSession(connector=connector) as session:
                # A read that was lost counts, though it could be sent again.
                session._retry_connection = False
                # Whoever asks goes on hearing that the server is ready, on either port.
                url = self.server.admin_url if number in OPERATORS else self.server.url
                client = Client(session, url, self.token, through_others=number in OPERATORS)
                count = 0
                while not stop.is_set():
                    count += 1
                    if number % 2:
                        await self.history.transfer(client, f"work-{number}-{count}", "alice", "bob", 1)
                    else:
                        try:
                            path = "/v1/accounts/bob" if number not in OPERATORS and count % 3 else "/readyz"
                            answer = await client.get(path)
                            if answer.status != 200:
                                wrong.append(f"{answer.status} {answer.body!r}")
                        except aiohttp.ClientError as error:
                            wrong.append(repr(error))
                    await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS))

        await asyncio.gather(*(work(number) for number in range(CLIENTS)))
        return wrong

    def swapped(self) -> int:
        """Return how many times all workers have been swapped."""
        return self.server.log_text().count("workers were swapped")


@pytest.fixture(scope="module")
async def two_workers(
    template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """A server that the tests of a crew leave serving."""
    log = tmp_path_factory.mktemp("crew") / "log"
    async with shared_server(template, log, {"TALLYSTICK_WORKERS": str(WORKERS)}, redis_url) as server:
        yield server


@pytest.fixture
async def crew(two_workers: ServerProcess, ledger: str) -> Crew:
    """Open the accounts in a ledger of the test."""
    server = two_workers
    await server.workers()
    token = await make_key(server.database_url, ledger)
    async with aiohttp.ClientSession() as session:
        client = Client(session, server.url, token)
        await client.fund("alice", 1_000_000)
        await client.open("bob")
    return Crew(server, token, History(server.database_url, ledger))


async def test_what_waits_at_a_socket_is_taken_at_the_end(database_url: str) -> None:
    """Connections that nobody has accepted yet are answered, though the listener is closed at once."""
    [listener] = open_listeners("127.0.0.1", 0, 1)
    address = listener.getsockname()
    async with create_app(Settings(database_url=database_url, redis_url=NO_REDIS)) as app:
        runner = web.ServerRunner(app.server)
        await runner.setup()
        opened = [await asyncio.open_connection(*address) for _ in range(5)]
        for _, writer in opened:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
        await accept_the_rest(app, listener)
        listener.close()
        for reader, writer in opened:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        await runner.cleanup()


@on_linux
async def test_a_killed_worker_is_replaced(crew: Crew) -> None:
    """Its clients lose their answers and find the truth with the same key; those of the other one notice nothing."""
    server, token, history = crew
    killed, other = await server.workers()
    sessions = [aiohttp.ClientSession() for _ in range(CLIENTS)]
    try:
        clients = [Client(session, server.url, token) for session in sessions]
        ports = [await connected_from(client) for client in clients]
        served = {pid: peers_of(pid) for pid in (killed, other)}
        assert set(ports) == (served[killed] | served[other]) & set(ports)
        of_other = [client for client, port in zip(clients, ports, strict=True) if port in served[other]]
        of_killed = [client for client, port in zip(clients, ports, strict=True) if port in served[killed]]
        assert of_other
        assert of_killed
        lost = [history.transfer(client, f"lost-{n}", "alice", "bob", 1) for n, client in enumerate(of_killed)]
        kept = [history.transfer(client, f"kept-{n}", "alice", "bob", 1) for n, client in enumerate(of_other)]
        sending = asyncio.gather(*lost, *kept)
        await asyncio.sleep(0)
        os.kill(killed, signal.SIGKILL)
        await sending
        answers = [await history.transfer(client, f"later-{n}", "alice", "bob", 1) for n, client in enumerate(of_other)]
        assert {answer.status for answer in answers if answer is not None} == {201}
        # Whoever had no answer was connected to the killed one.
        assert len(history.errors) <= len(of_killed)
        assert None not in answers
        await until(lambda: "died: signal 9" in server.log_text())
        again = await server.workers()
        assert again[1] == other
        assert again[0] != killed
        await history.settle(clients[0])
        await history.check()
    finally:
        await asyncio.gather(*(session.close() for session in sessions))


async def connected_from(client: Client) -> int:
    """Return the port that a client's kept connection comes from, having made it."""
    assert (await client.get("/livez")).status == 200
    assert client.session.connector is not None
    [[(protocol, _)]] = client.session.connector._conns.values()
    assert protocol.transport is not None
    port: int = protocol.transport.get_extra_info("sockname")[1]
    return port


async def test_workers_are_swapped_under_load(crew: Crew) -> None:
    """Every swap ends with new processes, and no request fails or is left without an answer."""
    server, _, history = crew
    stop = asyncio.Event()
    loading = asyncio.create_task(crew.load(stop))
    seen = set(await server.workers())
    for swap in range(1, SWAPS + 1):
        server.kill(signal.SIGHUP)
        await until(lambda swap=swap: crew.swapped() == swap, REPLACED_SECONDS)
        now = await server.workers()
        assert seen.isdisjoint(now)
        seen.update(now)
        sent = len(history.operations)
        await until(lambda sent=sent: len(history.operations) > sent + CLIENTS)
    stop.set()
    assert await loading == []
    assert history.errors == []
    assert history.count("posted") == len(history.operations) > SWAPS * CLIENTS
    await history.check()


@pytest.fixture(scope="module")
async def impatient(
    template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """A server with two workers that it waits three seconds for."""
    log, program = tmp_path_factory.mktemp("impatient") / "log", "tests.process.short_timeouts"
    async with shared_server(template, log, {"TALLYSTICK_WORKERS": "2"}, redis_url, program) as server:
        yield server


def silences(server: ServerProcess) -> int:
    """Return how many workers have been killed because they gave no sign of life."""
    return server.log_text().count("gave no sign of life")


async def test_a_stopped_worker_is_replaced(impatient: ServerProcess) -> None:
    """A process that gives no sign of life is killed, and another one serves what waited at its socket."""
    stopped, other = await impatient.workers()
    before = silences(impatient)
    os.kill(stopped, signal.SIGSTOP)
    await until(lambda: silences(impatient) > before, REPLACED_SECONDS)
    again = await impatient.workers()
    assert again[1] == other
    assert again[0] != stopped
    assert not is_alive(stopped) or sys.platform != "linux"


async def test_a_server_that_was_stopped_itself_blames_nobody(impatient: ServerProcess) -> None:
    """Stopped together with its workers for longer than a worker may be silent, it goes on with the same ones."""
    workers = await impatient.workers()
    before = silences(impatient)
    for pid in (impatient.pid, *workers):
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(SILENCE_SECONDS + 1)
    for pid in (impatient.pid, *workers):
        os.kill(pid, signal.SIGCONT)
    # Longer than it takes to note a silence.
    await asyncio.sleep(2)
    assert await impatient.workers() == workers
    assert silences(impatient) == before


async def test_a_swap_that_cannot_be_stops(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """With settings that are refused, or with which a worker would not be ready, the old workers stay."""
    file = tmp_path / "url"
    file.write_text(database_url)
    server = ServerProcess(database_url, tmp_path / "log", redis_url=redis_url)
    del server.environment["TALLYSTICK_DATABASE_URL"]
    server.environment["TALLYSTICK_DATABASE_URL_FILE"] = str(file)
    try:
        await server.start()
        workers = await server.workers()
        for content, said in (
            ("nonsense", "workers are not swapped: database_url cannot have the value given by"),
            (
                "postgresql://nobody@127.0.0.1:1/books",
                "which keeps running: its successor ended: Postgres cannot be reached",
            ),
        ):
            file.write_text(content)
            server.kill(signal.SIGHUP)
            await until(lambda said=said: said in server.log_text(), REPLACED_SECONDS)
            assert await server.workers() == workers
        # What was refused is not what the next worker is started with.
        os.kill(workers[0], signal.SIGKILL)
        await until(lambda: "died: signal 9" in server.log_text())
        assert await server.workers() != workers
        file.write_text(database_url)
        server.kill(signal.SIGHUP)
        await until(lambda: "all 1 workers were swapped" in server.log_text(), REPLACED_SECONDS)
    finally:
        await server.stop()
