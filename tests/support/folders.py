"""Where tests keep the files of database servers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A database is made and dropped for every third test: on a disk that takes 0.3 s, in memory 0.05 s.
MEMORY = Path("/dev/shm")  # noqa: S108 (the folders in it have names that nobody guesses)
# Bytes that must be free there: a server of a test process takes up to 1 GB.
ROOM_MIN_BYTES = 8 * 1024**3


@contextmanager
def server_folder(prefix: str) -> Iterator[Path]:
    """Lend a folder for a server's files: in memory where there is room, or else where temporary files are."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_MIN_BYTES
    with tempfile.TemporaryDirectory(prefix=prefix, dir=MEMORY if in_memory else None) as folder:
        yield Path(folder)
