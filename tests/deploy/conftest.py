"""Two servers with one database and one Redis, and a balancer in front of them."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.hosts import Hosts, hosts_behind
from tests.support.balancer import BALANCERS, Haproxy
from tests.support.postgres import create_database, drop_database


@contextmanager
def short_folder() -> Iterator[Path]:
    """Give a folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="ts-") as name:
        # A balancer that root started works as somebody else.
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the test."""
    with short_folder() as place:
        yield place


@pytest.fixture(params=sorted(BALANCERS))
async def hosts(
    request: pytest.FixtureRequest, database_url: str, redis_url: str, folder: Path
) -> AsyncIterator[Hosts]:
    """Two servers behind HAProxy, and behind nginx."""
    async with hosts_behind(BALANCERS[request.param], database_url, redis_url, folder) as running:
        yield running


@pytest.fixture(scope="module", params=sorted(BALANCERS))
async def lasting_hosts(request: pytest.FixtureRequest, template: str, redis_url: str) -> AsyncIterator[Hosts]:
    """The same, of several tests that leave them as they are."""
    copy = await create_database(template)
    with short_folder() as folder:
        async with hosts_behind(BALANCERS[request.param], copy, redis_url, folder) as running:
            yield running
    await drop_database(template, copy)


@pytest.fixture
async def haproxy_hosts(database_url: str, redis_url: str, folder: Path) -> AsyncIterator[Hosts]:
    """Two servers behind HAProxy."""
    async with hosts_behind(Haproxy, database_url, redis_url, folder, BALANCER_ALGORITHM="roundrobin") as running:
        yield running
