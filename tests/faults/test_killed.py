"""The server is killed with SIGKILL at its failpoints under load; after a restart, a retry tells the outcome."""

import asyncio
import signal
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from server.settings import POSTING_FAILPOINTS
from tests.support.client import Client
from tests.support.history import History
from tests.support.postgres import administer
from tests.support.service import ServerProcess, in_process, make_key
from tests.support.waiting import WAIT_SECONDS, until

LEDGER = "killed"
# The requests of these ledgers share batches.
LEDGERS = ("killed", "killed-beside")
CLIENTS = 20
# Transfers of each client, one after the other.
TRANSFERS = 6


async def work(history: History, client: Client, number: int) -> None:
    """Post each transfer once, until the server is gone."""
    for count in range(TRANSFERS):
        amount = 1 if (number + count) % 3 else 1_000_000
        if await history.transfer(client, f"work-{number}-{count}", "alice", "bob", amount) is None:
            return


async def counted(database_url: str) -> int:
    """Return how many keys of the workers are bound."""
    [row] = await administer(
        database_url, "SELECT count(*) AS keys FROM tallystick.transfers WHERE starts_with(idempotency_key, 'work-')"
    )
    return int(row["keys"])


# Each failpoint at its third time, and the last one also at its first.
TIMES = [*((name, 3) for name in POSTING_FAILPOINTS), (POSTING_FAILPOINTS[-1], 1)]


@pytest.mark.parametrize(("name", "time"), TIMES)
async def test_killed_at_a_failpoint(database_url: str, tmp_path: Path, name: str, time: int) -> None:
    """Acknowledged transfers are posted once, refused ones are not, and a retry tells the outcome of lost ones."""
    server = ServerProcess(database_url, tmp_path / "server.log")
    histories = [History(database_url, ledger) for ledger in LEDGERS]
    tokens = [await make_key(database_url, ledger) for ledger in LEDGERS]
    async with in_process(database_url) as before:
        for token in tokens:
            client = Client(before.session, before.url, token)
            await client.fund("alice", 1_000)
            await client.open("bob")
    try:
        await server.start({"TALLYSTICK_FAILPOINTS": f"{name}=kill@{time}"})
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            pairs = [(h, Client(session, server.url, t)) for h, t in zip(histories, tokens, strict=True)]
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.gather(*(work(*pairs[number % len(pairs)], number) for number in range(CLIENTS)))
            # The supervisor restarts the worker; this test kills the whole server.
            await until(lambda: "died: signal 9" in server.log_text())
            server.kill()
            assert await server.wait() == -signal.SIGKILL
        lost = sum(history.count("unknown") for history in histories)
        assert lost >= 1
        answered = sum(history.count("posted", "refused") for history in histories)
        written = await _at_rest(database_url)
        assert answered <= written <= answered + lost
        if name == "posting.committed":
            assert written > answered, "no acknowledgement was lost after its commit"
    finally:
        await server.stop()
    for history in histories:
        await history.check()
    async with in_process(database_url) as after:
        for history, token in zip(histories, tokens, strict=True):
            await history.settle(Client(after.session, after.url, token))
    for history in histories:
        await history.check()
        assert history.count("posted") > 0
        assert history.count("refused") > 0


async def _at_rest(database_url: str) -> int:
    """Return the number of bound keys once no session of the dead server is left."""

    async def gone() -> bool:
        [row] = await administer(
            database_url,
            "SELECT count(*) AS sessions FROM pg_stat_activity "
            "WHERE application_name = 'tallystick' AND datname = current_database()",
        )
        return bool(row["sessions"] == 0)

    await until(gone)
    return await counted(database_url)


def _has_posted(history: History, count: int) -> bool:
    return history.count("posted") >= count


async def test_killed_again_and_again(database_url: str, tmp_path: Path) -> None:
    """If the server is killed twice at random moments while clients retry, every transfer is posted once."""
    server = ServerProcess(database_url, tmp_path / "server.log")
    history = History(database_url, LEDGER)
    token = await make_key(database_url, LEDGER)
    try:
        await server.start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client = Client(session, server.url, token)
            await client.fund("alice", 100_000)
            await client.open("bob")

            async def insist(number: int) -> None:
                for count in range(40):
                    await history.insist(client, f"work-{number}-{count}", "alice", "bob", 1)

            workers = asyncio.gather(*(insist(number) for number in range(10)))
            for kill in range(1, 3):
                await until(partial(_has_posted, history, kill * 60))
                server.kill()
                await server.wait()
                await server.start()
            async with asyncio.timeout(WAIT_SECONDS):
                await workers
            assert history.count("unknown") >= 2
            assert await client.balance("bob") == 400
        await history.check()
    finally:
        await server.stop()
