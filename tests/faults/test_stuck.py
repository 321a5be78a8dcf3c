"""Postgres is up but does not make progress: a backend is stopped, or a lock is not released."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from tests.support.client import Answer, Client
from tests.support.history import History
from tests.support.locks import held
from tests.support.postgres import administer
from tests.support.service import in_process
from tests.support.waiting import WAIT_SECONDS

LEDGER = "stuck"
# Seconds in which a request must be answered: the deadline of a posting, the half second for handing back its
# connection, and as much again for the look-up of the key.
BOUND_SECONDS = 12.0


class Scene(NamedTuple):
    """A service with accounts `alice`, `carol` and `bob`, and the history of its clients."""

    client: Client
    history: History

    async def send(self, name: str, source: str, count: int) -> list[Answer | None]:
        """Send transfers to `bob` at once; each must be answered within the bound."""
        async with asyncio.timeout(BOUND_SECONDS):
            return await asyncio.gather(
                *(self.history.transfer(self.client, f"{name}-{n}", source, "bob", 1) for n in range(count))
            )


@pytest.fixture
async def scene(database_url: str) -> AsyncIterator[Scene]:
    """A running service."""
    async with in_process(database_url) as service:
        client = await service.client(LEDGER)
        await client.fund("alice", 1_000)
        await client.fund("carol", 1_000_000)
        await client.open("bob")
        yield Scene(client, History(database_url, LEDGER))


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes with SIGSTOP, and let them go on at the end in any case."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def backends(database_url: str, condition: str = "true") -> list[int]:
    """Return the backends of the service's sessions."""
    rows = await administer(
        database_url,
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'tallystick' AND datname = current_database() "
        f"AND {condition}",
    )
    return [row["pid"] for row in rows]


async def test_a_stopped_backend(scene: Scene) -> None:
    """
    If the backends that would post are stopped, callers are answered in time, and the service works with new
    connections.
    """
    pids = await backends(scene.history.database_url)
    assert pids
    with stopped(*pids):
        answers = await scene.send("stop", "alice", 20)
        heard = {answer.status for answer in answers if answer is not None}
        assert heard <= {201, 503}
        # A new connection has a backend that is not stopped.
        assert not set(await backends(scene.history.database_url)) <= set(pids)
        await scene.history.insist(scene.client, "beside", "carol", "bob", 1)
    await scene.history.settle(scene.client)
    assert await scene.client.balance("bob") == 21
    await scene.history.check()


async def test_a_backend_stopped_while_it_holds_its_locks(scene: Scene) -> None:
    """
    A backend that is stopped inside its transaction keeps its accounts locked. Every caller is answered in time, and
    each transfer is posted once, whatever the backend does when it goes on.
    """
    url = scene.history.database_url
    with ExitStack() as stack:
        async with held(url, "bob"):
            sending = asyncio.create_task(scene.send("inside", "alice", 20))
            pids: list[int] = []
            async with asyncio.timeout(WAIT_SECONDS):
                while not pids:
                    pids = await backends(url, "wait_event_type = 'Lock'")
            stack.enter_context(stopped(*pids))
        answers = await sending
        assert {answer.status for answer in answers if answer is not None} == {503}
        assert scene.history.count("unknown") >= 1
    await scene.history.settle(scene.client)
    assert await scene.client.balance("bob") == 20
    await scene.history.check()


@pytest.mark.usefixtures("short_deadlines")
async def test_a_row_lock_held_for_longer_than_the_deadline(scene: Scene) -> None:
    """Requests for a locked account get `not_applied`, which is true, and their keys work once the lock is released."""
    url = scene.history.database_url
    async with held(url, "alice"):
        answers = await scene.send("locked", "alice", 20)
        assert {answer.status for answer in answers if answer is not None} == {503}
        assert scene.history.count("not_applied") == 20
        rows = await administer(url, "SELECT FROM tallystick.transfers WHERE source = 'alice'")
        assert rows == []
    await scene.history.settle(scene.client)
    assert scene.history.count("posted") == 20
    await scene.history.check()


async def test_a_row_lock_held_for_less_than_the_deadline(scene: Scene) -> None:
    """If a lock is released after the lock timeout but before the deadline, requests succeed after the wait."""
    async with held(scene.history.database_url, "alice"):
        sending = asyncio.create_task(scene.send("late", "alice", 20))
        await asyncio.sleep(1.0)
        assert not sending.done()
    assert {answer.status for answer in await sending if answer is not None} == {201}
    await scene.history.check()


@pytest.mark.usefixtures("short_deadlines")
async def test_a_locked_account_stalls_nobody_else(scene: Scene) -> None:
    """While one account is locked, transfers of other accounts in the same batches are all posted."""
    others = 0
    async with held(scene.history.database_url, "alice"):
        stuck = asyncio.create_task(scene.send("stuck", "alice", 20))
        while not stuck.done():
            answers = await scene.send(f"beside-{others}", "carol", 10)
            assert {answer.status for answer in answers if answer is not None} == {201}
            others += 1
        assert {answer.status for answer in await stuck if answer is not None} == {503}
    # One batch waited for the locked account until the lock timeout; later batches knew of the lock and did not wait.
    assert others >= 10
    await scene.history.settle(scene.client)
    assert await scene.client.balance("bob") == 20 + 10 * others
    await scene.history.check()
