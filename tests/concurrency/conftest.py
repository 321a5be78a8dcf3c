"""A crowd: many clients of one ledger, served by one instance or by two that know nothing of one another."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.concurrency.crowd import Crowd
from tests.support.client import Client
from tests.support.history import History
from tests.support.service import in_process, make_key

LEDGER = "crowd"


async def gather_crowd(stack: AsyncExitStack, database_url: str, instances: int) -> Crowd:
    """Start the instances and return clients of all of them, with one key."""
    token = await make_key(database_url, LEDGER)
    services = [await stack.enter_async_context(in_process(database_url)) for _ in range(instances)]
    clients = [Client(service.session, service.url, token) for service in services]
    return Crowd(clients, History(database_url, LEDGER))


@pytest.fixture(params=[1, 2], ids=["one instance", "two instances"])
async def crowd(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Crowd]:
    """Clients of one instance, and of two on the same database."""
    async with AsyncExitStack() as stack:
        yield await gather_crowd(stack, database_url, request.param)


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Crowd]:
    """Clients of two instances on one database: duplicates meet in Postgres only."""
    async with AsyncExitStack() as stack:
        yield await gather_crowd(stack, database_url, 2)
