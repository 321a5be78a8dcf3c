"""A service whose books' clock tests may move."""

from collections.abc import AsyncIterator

import pytest

from tests.support.client import Client
from tests.support.clock import BooksClock, moved_clock
from tests.support.postgres import create_database
from tests.support.service import Service, in_process


@pytest.fixture(scope="session")
async def timed_service(template: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on a database apart from that of all other tests, who live in the present."""
    async with in_process(await create_database(template), redis_url) as running:
        yield running


@pytest.fixture
async def clock(timed_service: Service) -> AsyncIterator[BooksClock]:
    """The clock of the books of `timed`."""
    async with moved_clock(timed_service.database_url, timed_service.redis_url) as clock:
        yield clock


@pytest.fixture
async def timed(timed_service: Service, ledger: str, clock: BooksClock) -> Client:
    """A client with an admin key of this test's ledger, where `clock` is the clock."""
    return await timed_service.client(ledger)
