"""Makes folders for the files of the tests' database servers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Every third test makes and drops a database, which takes 0.3 s on a disk and 0.05 s in memory.
MEMORY = Path("/dev/shm")  # noqa: S108 (the folders in it have names that nobody guesses)
# Bytes that must be free there: the server of each test process takes up to 1 GB.
ROOM_MIN_BYTES = 8 * 1024**3


@contextmanager
def server_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder for a server's files: in memory if there is room, otherwise among the temporary files."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_MIN_BYTES
    with tempfile.TemporaryDirectory(prefix=prefix, dir=MEMORY if in_memory else None) as folder:
        yield Path(folder)
