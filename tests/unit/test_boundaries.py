"""Rules about code that is allowed in one place only."""

import re
from collections.abc import Iterator
from pathlib import Path

SERVER = Path(__file__).parents[2] / "server"


def users(folder: Path, pattern: str) -> Iterator[str]:
    """Return the modules below a folder whose text matches the pattern."""
    for path in sorted(folder.rglob("*.py")):
        if re.search(pattern, path.read_text()):
            yield path.relative_to(SERVER).as_posix()


def test_errors_of_the_driver_stay_in_the_store() -> None:
    """No module above the store uses an error of asyncpg, except the one that starts the embedded servers."""
    found = set(users(SERVER, r"asyncpg\.\w+(Error|Exception)\b"))
    assert {name for name in found if not name.startswith(("store/", "process/embedded/"))} == set()


def test_only_one_class_invalidates() -> None:
    """Only one class of the ledger invalidates the cache, so no other can forget to; the self-check only compares."""
    assert list(users(SERVER / "ledger", r"_cache\.")) == ["ledger/invalidation.py", "ledger/self_check.py"]
