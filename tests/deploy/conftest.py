"""Two servers with one database and one Redis, and a balancer in front of them."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.deploy.hosts import Hosts, hosts_behind
from tests.support.balancer import BALANCERS, Haproxy


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="ts-") as name:
        # A balancer that root started works as somebody else.
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(params=sorted(BALANCERS))
async def hosts(
    request: pytest.FixtureRequest, database_url: str, redis_url: str, folder: Path
) -> AsyncIterator[Hosts]:
    """Two servers behind HAProxy, and behind nginx."""
    async with hosts_behind(BALANCERS[request.param], database_url, redis_url, folder) as running:
        yield running


@pytest.fixture
async def haproxy_hosts(database_url: str, redis_url: str, folder: Path) -> AsyncIterator[Hosts]:
    """Two servers behind HAProxy."""
    async with hosts_behind(Haproxy, database_url, redis_url, folder, BALANCER_ALGORITHM="roundrobin") as running:
        yield running
