"""The errors of this package, and its texts for errors of the operating system."""

import contextlib
import errno
import shutil
from pathlib import Path


class EmbeddedError(Exception):
    """An embedded server cannot be used; the message says what is wrong and what to do."""


class LockedError(EmbeddedError):
    """Another process is starting or stopping the servers."""


class NotRunningError(EmbeddedError):
    """A server that another process has to start does not run."""


# The C library's messages for ENOSPC, EDQUOT and EFBIG, and PostgreSQL's hint after a write that was cut short. The
# servers run with LC_ALL=C, so the messages are in English.
DISK_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Check free disk space",
)

# With fewer free bytes than this the disk counts as full: one segment of PostgreSQL's write-ahead log.
START_BYTES_MIN = 16 * 1024 * 1024


def disk_full(path: Path) -> EmbeddedError:
    """Return the error for a full disk, or a quota or file-size limit that is reached."""
    return EmbeddedError(
        f"The disk that holds {path} is full. Free some space, or name another directory with --data-dir."
    )


def no_ledger(path: Path) -> EmbeddedError:
    """Return the error for a data directory without a ledger."""
    return EmbeddedError(
        f"There is no ledger in {path.resolve()}: name its folder with --data-dir, or make one there with `tallystick "
        "migrate`."
    )


def failure(what: str, output: str, path: Path) -> EmbeddedError:
    """Return the error for a server that did not start, with the last lines of its output."""
    return disk_full(path) if _is_full(output, path) else EmbeddedError(f"{what}. {cause(output, path)}")


def cause(output: str, path: Path) -> str:
    """Return why a server ended, according to the last lines of its output."""
    return str(disk_full(path)) if _is_full(output, path) else f"Its last output was:\n{output or '(nothing)'}"


def _is_full(output: str, path: Path) -> bool:
    if any(text in output for text in DISK_FULL_TEXTS):
        return True
    # A full disk may have no room for the message about it. The error is suppressed because the directory may be gone.
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path).free < START_BYTES_MIN
    return False


def explain(error: OSError, path: Path) -> EmbeddedError:
    """Return the EmbeddedError for an error of the operating system about the data directory `path`."""
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
            f"{error.filename or path} is not writable by this user. Name a directory of your own with --data-dir."
        )
    return EmbeddedError(
        f"The embedded servers cannot use {path}: {error}. Fix this, or name another directory with --data-dir."
    )


def _first_file(path: Path) -> Path:
    return next((step for step in (*reversed(path.parents), path) if step.is_file()), path)
