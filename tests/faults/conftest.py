"""What tests of faults share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Seconds in which a request is answered that waits for a row which somebody keeps: less than usual, and still several
# lock timeouts and polls.
SHORT_DEADLINE_SECONDS = 2.5


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        yield Path(folder)


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for locked rows in vain hear so sooner than usual."""
    for name in ("posting.DEADLINE", "accounts.WRITE_DEADLINE", "recent.READ_DEADLINE"):
        monkeypatch.setattr(f"server.ledger.{name}_SECONDS", SHORT_DEADLINE_SECONDS)
