"""Fixtures of all tests: one embedded PostgreSQL a test process, one service, a ledger a test."""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pytest_timeout import Settings as Timeout  # type: ignore[import-untyped]

from server.process.embedded.servers import EmbeddedServers
from tests.support.browser import Chromium, running_chromium
from tests.support.client import Client
from tests.support.folders import server_folder
from tests.support.hot import Hot, hot_service
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import create_database, create_template, drop_database
from tests.support.service import ServerProcess, Service, in_process

# Seconds that the fixtures of a test may take to end.
TEARDOWN_SECONDS = 120

# Tests name the authorities that they trust. Those of the system, 140 of them, would be read whenever a process loads
# aiohttp and whenever a client of httpx is made. The key of this one was never kept.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support" / "authority.pem")

# A script that runs the tests in its background has them ignore SIGINT, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_ledgers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Bound the end of a test too: when a test fails, pytest-timeout stops its clock, for a debugger."""
    timeout = Timeout(TEARDOWN_SECONDS, "signal", func_only=False, disable_debugger_detection=False)
    item.ihook.pytest_timeout_set_timer(item=item, settings=timeout)


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedServers]:
    """PostgreSQL and Valkey of this test process."""
    with (
        server_folder("tallystick-tests-") as folder,
        EmbeddedServers.open(folder / "data") as servers,
    ):
        yield servers


@pytest.fixture(scope="session")
def postgres_url(embedded: EmbeddedServers) -> str:
    """The PostgreSQL of this test process, as its superuser."""
    assert embedded.database_url is not None
    return embedded.database_url


@pytest.fixture(scope="session")
def redis_url(embedded: EmbeddedServers) -> str:
    """The Valkey of this test process; tests that break one start their own."""
    assert embedded.redis_url is not None
    return embedded.redis_url


@pytest.fixture(scope="session")
async def template(postgres_url: str) -> str:
    """The address of the server that holds the migrated template."""
    await create_template(postgres_url)
    return postgres_url


@pytest.fixture
async def database_url(template: str) -> AsyncIterator[str]:
    """A migrated, empty database of this test alone."""
    copy = await create_database(template)
    yield copy
    await drop_database(template, copy)


@pytest.fixture(scope="session")
async def service(template: str, redis_url: str) -> AsyncIterator[Service]:
    """A service shared by all tests that do not break it: a test works in a ledger of its own."""
    async with in_process(await create_database(template), redis_url) as running:
        yield running


@pytest.fixture
def ledger() -> str:
    """The name of a ledger that no other test uses."""
    return f"ledger-{next(_ledgers)}"


@pytest.fixture
async def client(service: Service, ledger: str) -> Client:
    """A client with an admin key of this test's ledger."""
    return await service.client(ledger)


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Chromium]:
    """The browser of this test process; left out where it is not installed."""
    async with running_chromium() as browser:
        yield browser


@pytest.fixture
async def server_process(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """`tallystick serve` as a child on a database of its own; not started yet."""
    process = ServerProcess(database_url, tmp_path / "server.log", redis_url=redis_url)
    yield process
    await process.stop()


@pytest.fixture(scope="session")
def fresh_cluster() -> Iterator[Path]:
    """The files of a Postgres that nobody has used, to be copied: that is faster than to make them."""
    with server_folder("ts-fresh-") as folder:
        EmbeddedServers.open(folder / "data", redis=False).close()
        yield folder / "data"


@pytest.fixture
def own_postgres(fresh_cluster: Path) -> Iterator[OwnPostgres]:
    """A Postgres of this test alone, to be crashed, or without the roles that other tests have made."""
    with server_folder("ts-own-") as folder:
        server = OwnPostgres(folder, fresh_cluster)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(scope="module")
async def hot_service_of_file(template: str) -> AsyncIterator[Hot]:
    """The service of one file of tests of the hot routes."""
    async with hot_service(template) as running:
        yield running


@pytest.fixture
async def hot(hot_service_of_file: Hot) -> AsyncIterator[Hot]:
    """The same, with a key that is known and a snapshot that is there; nothing is under way when the test ends."""
    await hot_service_of_file.client.account("alice")
    yield hot_service_of_file
    await hot_service_of_file.quiet()
