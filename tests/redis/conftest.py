"""A Valkey for each test, and clients of it that are closed at its end."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from server.store.redis import RedisServer
from tests.support.redis_proxy import RedisProxy, redis_proxied
from tests.support.service import REDIS_PATIENCE_MS
from tests.support.valkey import OwnValkey, running_valkey

Connect = Callable[..., RedisServer]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ts-") as path:
        yield Path(path)


@pytest.fixture
def valkey(folder: Path) -> Iterator[OwnValkey]:
    """A server that this test may break."""
    with running_valkey(folder) as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """A function that makes clients with a long deadline, or the usual one if *hasty*; they are closed at the end."""
    made: list[RedisServer] = []

    def make(url: str, *, hasty: bool = False) -> RedisServer:
        made.append(RedisServer(url, None, None if hasty else REDIS_PATIENCE_MS / 1_000))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def client(valkey: OwnValkey, connect: Connect) -> RedisServer:
    """A client that is connected by the server's unix socket."""
    return connect(valkey.url)


@pytest.fixture
async def proxy(valkey: OwnValkey) -> AsyncIterator[tuple[RedisProxy, str]]:
    """A proxy in front of the server, and the address of the proxy."""
    async with redis_proxied(valkey.socket) as (between, port):
        yield between, f"redis://127.0.0.1:{port}"
