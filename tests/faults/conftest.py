"""A socket folder for proxies, short because the path of a socket is bounded; a Postgres to be crashed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.own_postgres import OwnPostgres


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        yield Path(folder)


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A Postgres of this test alone."""
    with tempfile.TemporaryDirectory(prefix="ts-crash-") as folder:
        Path(folder).chmod(0o755)
        server = OwnPostgres(Path(folder))
        try:
            yield server
        finally:
            server.close()
