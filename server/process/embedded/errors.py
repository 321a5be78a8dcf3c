"""The error of this package, and its texts for errors of the operating system."""

import errno
import shutil
from pathlib import Path


class EmbeddedError(Exception):
    """An embedded server cannot be used; the message says what is wrong and what to do."""


# How the C library words ENOSPC, EDQUOT and EFBIG, and PostgreSQL a write that was cut short; the
# servers run with LC_ALL=C.
DISK_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Check free disk space",
)

# With fewer free bytes than this the disk counts as full: one segment of PostgreSQL's write-ahead log.
START_BYTES_MIN = 16 * 1024 * 1024


def disk_full(path: Path) -> EmbeddedError:
    """The error for a disk, quota or file-size limit that is used up."""
    return EmbeddedError(
        f"The disk that holds {path} is full. Free some space, or name another directory with --data-dir."
    )


def failure(what: str, output: str, path: Path) -> EmbeddedError:
    """The error for a server that did not start, with its last lines of output."""
    # A full disk may have no room for the message about it.
    if any(text in output for text in DISK_FULL_TEXTS) or shutil.disk_usage(path).free < START_BYTES_MIN:
        return disk_full(path)
    return EmbeddedError(f"{what}. Its last words were:\n{output or '(nothing)'}")


def explain(error: OSError, path: Path) -> EmbeddedError:
    """Return the error for an error of the operating system about the data directory `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return disk_full(path)
    if error.errno == errno.EROFS:
        return EmbeddedError(f"{path} is on a read-only file system. Name a writable directory with --data-dir.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return EmbeddedError(
            f"{_first_file(path)} is a file where a directory is needed. Name another directory with --data-dir."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return EmbeddedError(
            f"{error.filename or path} is not writable for this user. Name a directory of your own with --data-dir."
        )
    return EmbeddedError(
        f"The embedded servers cannot use {path}: {error}. Mend this, or name another directory with --data-dir."
    )


def _first_file(path: Path) -> Path:
    return next((step for step in (*reversed(path.parents), path) if step.is_file()), path)
