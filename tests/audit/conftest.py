"""Books that real traffic has left, with their events waiting or relayed, to be looked at in a copy."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.audit.traffic import play
from tests.support.audits import relay_all
from tests.support.postgres import create_database, drop_database


@pytest.fixture(scope="session")
async def played(template: str) -> AsyncIterator[str]:
    """A database after real traffic, to be copied; no event of it has a position."""
    url = await create_database(template)
    await play(url)
    yield url
    await drop_database(template, url)


@pytest.fixture(scope="session")
async def relayed(played: str, template: str) -> AsyncIterator[str]:
    """A copy of it, to be copied, in which all events have positions."""
    url = await create_database(template, urlsplit(played).path[1:])
    await relay_all(url)
    yield url
    await drop_database(template, url)


@pytest.fixture
async def books(played: str, template: str) -> AsyncIterator[str]:
    """A copy of the books whose events wait."""
    copy = await create_database(template, urlsplit(played).path[1:])
    yield copy
    await drop_database(template, copy)


@pytest.fixture
async def told(relayed: str, template: str) -> AsyncIterator[str]:
    """A copy of the books whose events have positions."""
    copy = await create_database(template, urlsplit(relayed).path[1:])
    yield copy
    await drop_database(template, copy)
