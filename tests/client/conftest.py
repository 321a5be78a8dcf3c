"""Fixtures: both clients, with an admin key of a test's ledger."""

from collections.abc import AsyncIterator

import pytest

from tallystick_client import rules
from tests.client.calling import KINDS, Caller, calling
from tests.client.lossy import Lossy, lossy
from tests.support.client import Client
from tests.support.events import relaying
from tests.support.postgres import create_database
from tests.support.service import Service, in_process

# The deadline of calls that fail in the end: long enough for many attempts.
DEADLINE_SECONDS = 2.0
# The deadline of calls that succeed in the end, on a busy machine too.
LONG_DEADLINE_SECONDS = 30.0
PAUSE_SECONDS = 0.01


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of client."""
    return str(request.param)


@pytest.fixture(scope="module")
async def told(template: str) -> AsyncIterator[Service]:
    """A service for one file, with a relay."""
    database_url = await create_database(template)
    async with in_process(database_url) as service, relaying(database_url):
        yield service


@pytest.fixture
async def books(service: Service, client: Client) -> Client:
    """A test client whose ledger has `alice` with 1,000 and `shop` with nothing."""
    await client.fund("alice", 1_000)
    await client.open("shop")
    return client


@pytest.fixture
async def caller(kind: str, books: Client, service: Service) -> AsyncIterator[Caller]:
    """A client of that ledger, of either kind."""
    assert books.token is not None
    async with calling(kind, service.url, books.token) as caller:
        yield caller


@pytest.fixture(scope="module")
async def proxy_of_file(service: Service) -> AsyncIterator[Lossy]:
    """A proxy before the service, for one file."""
    async with lossy(service.url, service.session) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_file: Lossy) -> Lossy:
    """The proxy, which passes everything at first."""
    proxy_of_file.script()
    return proxy_of_file


@pytest.fixture
def deadline_seconds() -> float:
    """The deadline of `losing`, in seconds."""
    return DEADLINE_SECONDS


@pytest.fixture
async def losing(
    kind: str, books: Client, proxy: Lossy, deadline_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Caller]:
    """A client of that ledger, of either kind, behind the proxy."""
    monkeypatch.setattr(rules, "PAUSE_SECONDS", PAUSE_SECONDS)
    assert books.token is not None
    async with calling(kind, proxy.url, books.token, deadline_seconds=deadline_seconds) as caller:
        yield caller
