"""Places for embedded servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.process.embedded.servers import EmbeddedServers
from tests.process.embedded_helpers import copied
from tests.support.folders import server_folder


@pytest.fixture
def place() -> Iterator[Path]:
    """A private directory with a short path."""
    with server_folder("tallystick-test-") as path:
        yield path


@pytest.fixture(scope="session")
def made() -> Iterator[Path]:
    """The data of servers that ran once and ended in order: to make them takes longer than to copy them."""
    with server_folder("tallystick-test-") as path:
        EmbeddedServers.open(path / "data").close()
        yield path / "data"


@pytest.fixture
def data(place: Path, made: Path) -> Path:
    """A copy of that data directory, for a test of something else than how it is made."""
    return copied(made, place / "data")
