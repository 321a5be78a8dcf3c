"""The Redis of these tests, looked into past the service."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from redis.asyncio import Redis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """The Valkey of this test process."""
    async with Redis(unix_socket_path=unquote(urlsplit(redis_url).path)) as connection:
        yield connection
