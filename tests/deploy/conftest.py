"""Two servers with one database and one Redis, and a balancer in front of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.deploy.hosts import Hosts, Machines, Servers, hosts_of, machines_behind, two_servers
from tests.support.balancer import BALANCERS, Balancer, Haproxy
from tests.support.folders import server_folder
from tests.support.postgres import create_database, drop_database


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder with a path short enough for unix sockets."""
    with server_folder("ts-") as folder:
        # A balancer that root starts runs as a different user.
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the test."""
    with short_folder() as place:
        yield place


@pytest.fixture(scope="package")
async def servers(template: str, redis_url: str) -> AsyncIterator[Servers]:
    """Two servers for all tests here; each test must leave both serving."""
    copy = await create_database(template)
    with short_folder() as folder:
        async with two_servers(copy, redis_url, folder) as both:
            yield both
    await drop_database(template, copy)


@asynccontextmanager
async def machines_of_file(kind: type[Balancer], servers: Servers, **variables: str) -> AsyncIterator[Machines]:
    """Run a balancer for the tests of a file."""
    with short_folder() as folder:
        async with machines_behind(kind, servers, folder, **variables) as machines:
            yield machines


@pytest.fixture(scope="module", params=sorted(BALANCERS))
async def machines(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Machines]:
    """Two servers behind HAProxy, and two behind nginx."""
    async with machines_of_file(BALANCERS[request.param], servers) as running:
        yield running


@pytest.fixture
async def hosts(machines: Machines) -> AsyncIterator[Hosts]:
    """The same machines with a new ledger for the test."""
    async with hosts_of(machines) as running:
        yield running


@pytest.fixture(scope="module")
async def haproxy_machines(servers: Servers) -> AsyncIterator[Machines]:
    """Two servers that HAProxy uses in turn."""
    async with machines_of_file(Haproxy, servers, BALANCER_ALGORITHM="roundrobin") as running:
        yield running


@pytest.fixture
async def haproxy_hosts(haproxy_machines: Machines) -> AsyncIterator[Hosts]:
    """The same machines with a new ledger for the test."""
    async with hosts_of(haproxy_machines) as running:
        yield running
