"""Both clients, with an admin key of a test's ledger."""

from collections.abc import AsyncIterator

import pytest

from tests.client.calling import KINDS, Caller, calling
from tests.support.client import Client
from tests.support.service import Service


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which client."""
    return str(request.param)


@pytest.fixture
async def books(service: Service, client: Client) -> Client:
    """A client of tests, of a ledger with the accounts `alice`, who has 1,000, and `shop`, who has nothing."""
    await client.fund("alice", 1_000)
    await client.open("shop")
    return client


@pytest.fixture
async def caller(kind: str, books: Client, service: Service) -> AsyncIterator[Caller]:
    """A client of that ledger."""
    assert books.token is not None
    async with calling(kind, service.url, books.token) as caller:
        yield caller
