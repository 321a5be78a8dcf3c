"""The owner of a data directory's servers: the process that started them and with which they end."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .directory import OWNER, DataDirectory, try_lock, unlock
from .errors import EmbeddedError

# Seconds that `serve` waits for a command that owns the servers. Most commands take a second; an audit takes longer.
COMMAND_SECONDS = 60.0
POLL_SECONDS = 0.02

SERVES, COMMAND = b"serve", b"command"
# Bytes of the owner's note: its process id, one of the two roles above, and its servers.
NOTES_BYTES = 50


@dataclass(frozen=True)
class Ownership:
    """A lock that is held until it is released or this process ends."""

    descriptor: int

    def release(self) -> None:
        """Release the lock, also for forked workers that inherited it."""
        unlock(self.descriptor)
        os.close(self.descriptor)


@dataclass(frozen=True)
class Owner:
    """Another process that owns the servers, whether it serves, and which servers it needs."""

    pid: int
    serves: bool
    servers: tuple[str, ...]


def own(directory: DataDirectory, servers: Sequence[str], *, serving: bool) -> Ownership | None:
    """Become the owner of the servers, or return None if another process is; only while the directory is locked."""
    descriptor = directory.open_lock(OWNER)
    if not try_lock(descriptor):
        os.close(descriptor)
        return None
    role = SERVES if serving else COMMAND
    os.pwrite(descriptor, b"%-20d%-10b%-20b" % (os.getpid(), role, " ".join(servers).encode()), 0)
    return Ownership(descriptor)


def owner_of(directory: DataDirectory) -> Owner:
    """Return the owner, after `own` has returned None."""
    descriptor = directory.open_lock(OWNER)
    try:
        noted = os.pread(descriptor, NOTES_BYTES, 0).decode("ascii", "replace").split()
    finally:
        os.close(descriptor)
    pid = int(noted[0]) if noted and noted[0].isdigit() else 0
    # Children of a killed process may hold its lock for a moment.
    return Owner(pid, noted[1:2] == [SERVES.decode()] and _is_alive(pid), tuple(noted[2:]))


def wait_for_owner(directory: DataDirectory, deadline: float) -> None:
    """
    Wait a moment for a command that owns the servers.

    Raises:
        EmbeddedError: The owner serves, or the command has not ended by *deadline*.
    """
    owner = owner_of(directory)
    if owner.serves:
        raise EmbeddedError(
            f"Process {owner.pid} serves from {directory.path} already. End it first, or name another directory with "
            "--data-dir."
        )
    if time.monotonic() > deadline:
        raise EmbeddedError(
            f"Process {owner.pid} uses {directory.path}, and its servers end with it. Try again when it has ended."
        )
    time.sleep(POLL_SECONDS)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid > 0
