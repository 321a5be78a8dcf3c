"""A relay that runs when a test says so."""

from collections.abc import AsyncIterator

import pytest

from server.events.relay import Relay
from server.store.postgres import Database
from tests.support.service import Service


@pytest.fixture
async def relay(service: Service) -> AsyncIterator[Relay]:
    """A relay of the service's database."""
    async with Database(service.database_url, posting_connections=1, reading_connections=1) as database:
        yield Relay(database)
