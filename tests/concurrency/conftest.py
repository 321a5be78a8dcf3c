"""Fixtures of crowds: many clients of one ledger, served by one instance or by two separate ones."""

from collections.abc import AsyncIterator, Sequence

import pytest

from tests.concurrency.crowd import Crowd
from tests.support.client import Client
from tests.support.history import History
from tests.support.postgres import create_database, drop_database
from tests.support.service import Service, in_process, make_key


@pytest.fixture(scope="session")
async def instances(template: str) -> AsyncIterator[Sequence[Service]]:
    """Two instances on one database for all tests of this folder; each test has its own ledger."""
    database_url = await create_database(template)
    async with in_process(database_url) as first, in_process(database_url) as second:
        yield first, second
    await drop_database(template, database_url)


async def gather_crowd(instances: Sequence[Service], ledger: str) -> Crowd:
    """Return a client for each instance, all with one key of a ledger."""
    database_url = instances[0].database_url
    token = await make_key(database_url, ledger)
    clients = [Client(service.session, service.url, token) for service in instances]
    return Crowd(clients, History(database_url, ledger))


@pytest.fixture(params=[1, 2], ids=["one instance", "two instances"])
async def crowd(request: pytest.FixtureRequest, instances: Sequence[Service], ledger: str) -> Crowd:
    """Clients of one instance, or of two on the same database."""
    return await gather_crowd(instances[: request.param], ledger)


@pytest.fixture
async def two(instances: Sequence[Service], ledger: str) -> Crowd:
    """Clients of two instances on one database: duplicates meet only in Postgres."""
    return await gather_crowd(instances, ledger)
