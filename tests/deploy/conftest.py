"""Two servers with one database and one Redis, and a balancer in front of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.deploy.hosts import Hosts, Machines, hosts_of, machines_behind
from tests.support.balancer import BALANCERS, Balancer, Haproxy
from tests.support.folders import server_folder
from tests.support.postgres import create_database, drop_database


@contextmanager
def short_folder() -> Iterator[Path]:
    """Give a folder whose path leaves room for the name of a socket."""
    with server_folder("ts-") as folder:
        # A balancer that root started works as somebody else.
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the test."""
    with short_folder() as place:
        yield place


@asynccontextmanager
async def machines_of_file(
    kind: type[Balancer], template: str, redis_url: str, **variables: str
) -> AsyncIterator[Machines]:
    """Run two servers and a balancer for the tests of a file, each of which leaves both servers serving."""
    copy = await create_database(template)
    with short_folder() as folder:
        async with machines_behind(kind, copy, redis_url, folder, **variables) as machines:
            yield machines
    await drop_database(template, copy)


@pytest.fixture(scope="module", params=sorted(BALANCERS))
async def machines(request: pytest.FixtureRequest, template: str, redis_url: str) -> AsyncIterator[Machines]:
    """Two servers behind HAProxy, and behind nginx."""
    async with machines_of_file(BALANCERS[request.param], template, redis_url) as running:
        yield running


@pytest.fixture
async def hosts(machines: Machines) -> AsyncIterator[Hosts]:
    """The same, with a ledger of the test."""
    async with hosts_of(machines) as running:
        yield running


@pytest.fixture(scope="module")
async def haproxy_machines(template: str, redis_url: str) -> AsyncIterator[Machines]:
    """Two servers that HAProxy asks by turns."""
    async with machines_of_file(Haproxy, template, redis_url, BALANCER_ALGORITHM="roundrobin") as running:
        yield running


@pytest.fixture
async def haproxy_hosts(haproxy_machines: Machines) -> AsyncIterator[Hosts]:
    """The same, with a ledger of the test."""
    async with hosts_of(haproxy_machines) as running:
        yield running
