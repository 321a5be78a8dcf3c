"""The service against the model: whatever is asked in whatever order, both answer the same and hold the same books."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.model.ledger_requests import Link
from tests.model.machine import LedgerMachine
from tests.support.clock import BooksClock
from tests.support.expiries import post_expiries
from tests.support.postgres import create_database
from tests.support.service import ServerProcess, Service, in_process, make_key

T = TypeVar("T")

# The seed is fixed; what failed is found again by running again, so nothing is kept between runs.
SETTINGS = settings(
    max_examples=40,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    # A step is several requests: slower than what hypothesis expects of data that only lives in memory.
    suppress_health_check=[HealthCheck.too_slow],
)


class ServiceWorld:
    """
    A service, as a machine on another thread meets it: each link has a ledger of its own.

    Args:
        url: Of the server.

        database_url, redis_url: Of its stores; the clock of the database is this machine's alone.

        poster: A service in this process on the same database, which posts expiries.
    """

    def __init__(self, url: str, database_url: str, redis_url: str, poster: Service) -> None:
        self._url = url
        self._database_url = database_url
        self.clock = BooksClock(database_url, redis_url)
        self._poster = poster
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._ledgers: dict[Link, str] = {}

    def wait(self, work: Awaitable[T]) -> T:
        """Have the loop do something, and return its result."""

        async def done() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result()

    def connect(self) -> Link:
        """Open a link to an empty ledger."""
        ledger = f"model-{next(self._numbers)}"
        link = Link(self._url, self.wait(make_key(self._database_url, ledger)))
        self._ledgers[link] = ledger
        return link

    def advance(self, seconds: int) -> None:
        """Let the books' clock jump."""
        self.wait(self.clock.advance(seconds))

    def sweep(self, link: Link) -> None:
        """Post the expiries that are due."""
        self.wait(post_expiries(self._poster, self._ledgers[link]))


@pytest.fixture
async def moved(template: str, redis_url: str) -> AsyncIterator[Service]:
    """A service whose clock is moved, on a database of its own."""
    async with in_process(await create_database(template), redis_url) as running:
        yield running


async def run(machine: type[LedgerMachine], limits: settings) -> None:
    """Run a machine beside the loop: its calls are blocking, the service's are not."""
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=limits)


@pytest.mark.timeout(240)
async def test_the_service_does_what_the_model_does(moved: Service) -> None:
    """In every sequence of requests that was tried, service and model give the same answers and hold the same books."""

    class Machine(LedgerMachine):
        world = ServiceWorld(moved.url, moved.database_url, moved.redis_url, moved)

    await run(Machine, SETTINGS)


@pytest.mark.timeout(240)
async def test_the_service_does_so_though_it_is_killed(server_process: ServerProcess) -> None:
    """The same holds when the server is killed and started again between any two requests."""
    await server_process.start()
    database_url, redis_url = server_process.database_url, server_process.redis_url
    async with in_process(database_url, redis_url) as poster:
        around = ServiceWorld(server_process.url, database_url, redis_url, poster)

        class Machine(LedgerMachine):
            world = around
            kills = 0

            @precondition(lambda self: self.model.keys and not self.kills)
            @rule()
            def kill(self) -> None:
                """End the server without warning, and start another."""
                self.kills += 1
                around.wait(restart())
                self.link.close()

        async def restart() -> None:
            pids.add(server_process.pid)
            server_process.kill()
            await server_process.wait()
            async with around.clock.true_meanwhile():
                await server_process.start()

        pids: set[int] = set()
        await run(Machine, settings(SETTINGS, max_examples=6))
        assert len(pids) >= 3
