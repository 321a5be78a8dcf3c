"""Both clients, with an admin key of a test's ledger."""

from collections.abc import AsyncIterator

import pytest

from tallystick_client import rules
from tests.client.calling import KINDS, Caller, calling
from tests.client.lossy import Lossy, lossy
from tests.support.client import Client
from tests.support.events import relaying
from tests.support.postgres import create_database
from tests.support.service import Service, in_process

# Seconds of a call that fails in the end: many attempts, and no long wait.
DEADLINE_SECONDS = 2.0
# Of one that succeeds in the end, on a busy machine too.
LONG_DEADLINE_SECONDS = 30.0
PAUSE_SECONDS = 0.01


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which client."""
    return str(request.param)


@pytest.fixture(scope="module")
async def told(template: str) -> AsyncIterator[Service]:
    """A service of one file, with a relay."""
    database_url = await create_database(template)
    async with in_process(database_url) as service, relaying(database_url):
        yield service


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


@pytest.fixture(scope="module")
async def proxy_of_file(service: Service) -> AsyncIterator[Lossy]:
    """A proxy before the service."""
    async with lossy(service.url, service.session) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_file: Lossy) -> Lossy:
    """The same, which passes everything."""
    proxy_of_file.script()
    return proxy_of_file


@pytest.fixture
def deadline_seconds() -> float:
    """Seconds that `losing` goes on for."""
    return DEADLINE_SECONDS


@pytest.fixture
async def losing(
    kind: str, books: Client, proxy: Lossy, deadline_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Caller]:
    """A client of that ledger behind the proxy."""
    monkeypatch.setattr(rules, "PAUSE_SECONDS", PAUSE_SECONDS)
    assert books.token is not None
    async with calling(kind, proxy.url, books.token, deadline_seconds=deadline_seconds) as caller:
        yield caller
