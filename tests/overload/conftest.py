"""A service of these tests alone, whose caps they lower."""

from collections.abc import AsyncIterator

import pytest

from tests.support.hot import Hot, hot_service


@pytest.fixture(scope="module")
async def service_of_file(template: str) -> AsyncIterator[Hot]:
    """The service of one file of tests."""
    async with hot_service(template) as running:
        yield running


@pytest.fixture
async def hot(service_of_file: Hot) -> AsyncIterator[Hot]:
    """The same, with a key that is known and a snapshot that is there; nothing is under way when the test ends."""
    await service_of_file.client.account("alice")
    yield service_of_file
    await service_of_file.quiet()
