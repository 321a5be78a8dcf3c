"""Fixtures: a direct connection to Redis, and the number of keys in each lookup."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from server.store.postgres import Database


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """The Valkey of this test process."""
    async with Redis(unix_socket_path=unquote(urlsplit(redis_url).path)) as connection:
        yield connection


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each lookup of this test asks for."""
    numbers: list[int] = []
    read = Database.read

    async def counted(database: Database, name: str, *arguments: object) -> list[asyncpg.Record]:
        if name == "api_key_read_many":
            assert isinstance(arguments[0], list)
            numbers.append(len(arguments[0]))
        return await read(database, name, *arguments)

    monkeypatch.setattr(Database, "read", counted)
    return numbers
