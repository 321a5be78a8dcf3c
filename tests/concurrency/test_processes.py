"""
Two server processes on one database: duplicates that would meet in memory within one process meet in Postgres here.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.concurrency.crowd import Crowd
from tests.support.client import Client
from tests.support.history import History
from tests.support.service import ServerProcess, make_key

LEDGER = "processes"


class Processes(NamedTuple):
    """A crowd, and the logs of its servers."""

    crowd: Crowd
    logs: list[Path]


@pytest.fixture
async def processes(database_url: str, tmp_path: Path) -> AsyncIterator[Processes]:
    """Two server processes on one database."""
    logs = [tmp_path / f"server-{number}.log" for number in range(2)]
    servers = [ServerProcess(database_url, log) for log in logs]
    token = await make_key(database_url, LEDGER)
    try:
        await asyncio.gather(*(server.start() for server in servers))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = [Client(session, server.url, token) for server in servers]
            yield Processes(Crowd(clients, History(database_url, LEDGER)), logs)
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


async def test_duplicates_meet_in_the_database(processes: Processes) -> None:
    """
    Identical requests, exact balances, shared keys and opposing transfers over two processes get consistent answers.
    """
    crowd = processes.crowd
    await crowd.first.fund("ann", 1_000)
    await crowd.first.fund("ben", 1_000)
    answers = await crowd.all_at_once([("same", "ann", "ben", 7)] * 200)
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert sum(not answer.replayed for answer in answers) == 1

    for number in range(10):
        await crowd.first.fund(f"exact-{number}", 10)
    for number in range(10):
        answers = await crowd.all_at_once([(f"all-{number}", f"exact-{number}", "ann", 10)] * 6)
        assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}

    for number in range(30):
        # In turns: each process gets one of the two, and their accounts differ.
        answers = await crowd.all_at_once([(f"key-{number}", "ann", "ben", 1), (f"key-{number}", "exact-0", "no", 1)])
        assert Counter(answer.status for answer in answers)[422] == 1

    opposing = [(f"pair-{n}", *(("ann", "ben") if n % 4 < 2 else ("ben", "ann")), 1) for n in range(600)]
    answers = await crowd.all_at_once(opposing)
    assert {answer.status for answer in answers} == {201}
    await crowd.history.check()
    assert not any("Deadlock" in log.read_text() for log in processes.logs)
