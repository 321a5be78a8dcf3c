"""The data directory: its owner, its lock and its layout."""

import contextlib
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .account import Account, account_for, is_reachable, reaching
from .errors import EmbeddedError, LockedError

if sys.platform != "win32":
    import fcntl

LAYOUT = 1
MARKER = "tallystick.json"
DRAFT = ".new"
LOCK = "tallystick.lock"
OWNER = "tallystick.owner"

# Files that a directory may contain before it is ours: our first files, and the one that mkfs makes.
HARMLESS = {MARKER, MARKER + DRAFT, LOCK, "lost+found"}

# Longer than the holder can take for everything it waits for: a server that stops, then initdb or a recovery.
LOCK_SECONDS = 300.0
LOCK_POLL_SECONDS = 0.02

# A unix socket path has at most 108 bytes on Linux and 104 on macOS, including the closing zero.
SOCKET_PATH_BYTES_MAX = 100
LONGEST_SOCKET_NAME = ".s.PGSQL.5432"

# Paths with other characters would have to be quoted in libpq's host lists, Valkey's arguments and URLs.
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._@+-]+")

# Used if TMPDIR is too long or closed to the account. It is safe: the sockets get a new directory there with a random
# name and mode 0700.
SHORT_PARENT = Path("/tmp")  # noqa: S108

PRIVATE = 0o700


@dataclass(frozen=True)
class DataDirectory:
    """A data directory that `account` has been checked to be able to use."""

    path: Path
    account: Account

    @classmethod
    def prepare(cls, path: Path, *programs: Path) -> "DataDirectory":
        """Check that `path` is ours or empty, and make it if it does not exist; the account must reach `programs`."""
        path = path.resolve()
        account = account_for(path)
        path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        directory = cls(path, reaching(account, path, *programs))
        directory._refuse_foreign_files()
        return directory

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.path / "postgres"

    @property
    def logs(self) -> Path:
        """The directory of the servers' logs."""
        return self.path / "logs"

    @property
    def is_marked(self) -> bool:
        """Whether the directory is marked as ours."""
        return (self.path / MARKER).exists()

    @contextlib.contextmanager
    def locked(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the directory's lock while servers are found, started or stopped; wait at most *seconds* for it."""
        lock = self.open_lock(LOCK)
        try:
            deadline = time.monotonic() + seconds
            while not try_lock(lock):
                if time.monotonic() >= deadline:
                    holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
                    raise LockedError(
                        f"Process {holder} has been starting or stopping the servers of "
                        f"{self.path} for {seconds:.0f} seconds. End it and try again."
                    )
                time.sleep(LOCK_POLL_SECONDS)
            os.pwrite(lock, b"%-20d" % os.getpid(), 0)
            yield
        finally:
            os.close(lock)

    def open_lock(self, name: str) -> int:
        """Open a lock file, and make it if it does not exist."""
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._own(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def write_private(self, path: Path, text: str) -> None:
        """Make a file that only the account may read, or replace it atomically."""
        draft = path.with_name(path.name + DRAFT)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            self._own(file.fileno())
        draft.replace(path)

    def adopt(self) -> None:
        """Mark the directory as ours and make its folder for logs; only while it is locked."""
        self._refuse_foreign_files()
        if not self.is_marked:
            os.chmod(self.path, PRIVATE)
            if self.account.foreign:
                os.chown(self.path, self.account.uid, self.account.gid)
            self._write_marker(None)
        self._make_private(self.logs)

    def sockets(self) -> Path:
        """Return the directory of the sockets; make it in a temporary directory if our own path is too long."""
        inside = self.path / "run"
        if _fits(inside):
            self._make_private(inside)
            return inside
        noted = self._noted_sockets()
        if noted is not None:
            return noted
        for parent in (Path(tempfile.gettempdir()).resolve(), SHORT_PARENT.resolve()):
            if _fits(parent / "tallystick-12345678") and is_reachable(parent, self.account):
                made = Path(tempfile.mkdtemp(prefix="tallystick-", dir=parent))
                if self.account.foreign:
                    os.chown(made, self.account.uid, self.account.gid)
                self._write_marker(made)
                return made
        raise EmbeddedError(
            f"The path {self.path} is too long for a unix socket, and so is the directory for "
            "temporary files. Name a shorter one with --data-dir."
        )

    def _refuse_foreign_files(self) -> None:
        # Check the marker last: a process that races with this one writes it before any other file.
        names = set(os.listdir(self.path)) - HARMLESS
        if names and not self.is_marked:
            raise EmbeddedError(
                f"{self.path} holds files that are not Tallystick's, such as {min(names)}. Name an "
                "empty or a new directory with --data-dir."
            )

    def _noted_sockets(self) -> Path | None:
        try:
            notes = json.loads((self.path / MARKER).read_bytes())
            path = Path(notes["sockets"])
            found = os.lstat(path)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == PRIVATE
        # A copied data directory holds the marker of the directory that it was copied from.
        same = notes.get("path") == str(self.path)
        return path if private and same and found.st_uid == self.account.uid else None

    def _write_marker(self, sockets: Path | None) -> None:
        notes = {
            "about": "Data of Tallystick's embedded PostgreSQL and Valkey.",
            "layout": LAYOUT,
            "path": str(self.path),
            "sockets": str(sockets) if sockets else None,
        }
        self.write_private(self.path / MARKER, json.dumps(notes, indent=2))

    def _make_private(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=PRIVATE)
            if self.account.foreign:
                os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def _own(self, descriptor: int) -> None:
        if self.account.foreign:
            os.fchown(descriptor, self.account.uid, self.account.gid)


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False if another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release a lock, also for processes that inherited its descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _fits(directory: Path) -> bool:
    longest = os.fsencode(directory / LONGEST_SOCKET_NAME)
    return len(longest) <= SOCKET_PATH_BYTES_MAX and bool(PLAIN_PATH.fullmatch(str(directory)))
