"""Shared fixtures of the fault tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Seconds after which a request that waits for a locked row is answered: less than usual, but still several lock
# timeouts and polls.
SHORT_DEADLINE_SECONDS = 2.5


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        yield Path(folder)


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter deadlines for requests that wait for locked rows."""
    for name in ("posting.DEADLINE", "accounts.WRITE_DEADLINE", "recent.READ_DEADLINE", "row_locks.WRITE_DEADLINE"):
        monkeypatch.setattr(f"server.ledger.{name}_SECONDS", SHORT_DEADLINE_SECONDS)
