"""Fixtures for a service whose ledger clock tests may move."""

from collections.abc import AsyncIterator

import pytest

from tests.support.client import Client
from tests.support.clock import BooksClock, moved_clock
from tests.support.postgres import create_database
from tests.support.service import Service, in_process


@pytest.fixture(scope="session")
async def timed_service(template: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on its own database: all other tests share one that stays in the present."""
    async with in_process(await create_database(template), redis_url) as running:
        yield running


@pytest.fixture
async def clock(timed_service: Service) -> AsyncIterator[BooksClock]:
    """The ledger clock of `timed`."""
    async with moved_clock(timed_service.database_url, timed_service.redis_url) as clock:
        yield clock


@pytest.fixture
async def timed(timed_service: Service, ledger: str, clock: BooksClock) -> Client:
    """A client with an admin key for this test's ledger, whose time is `clock`."""
    return await timed_service.client(ledger)
