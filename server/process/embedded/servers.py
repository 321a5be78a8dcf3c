"""Opens both servers of one data directory, as one context manager."""

import contextlib
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Literal
from urllib.parse import quote

from . import postgres, valkey
from .binaries import postgres_bin, valkey_bin
from .directory import DataDirectory
from .errors import EmbeddedError, NotRunningError, explain, no_ledger
from .kept import Kept
from .ownership import COMMAND_SECONDS, Ownership, own, owner_of, wait_for_owner

Kind = Literal["postgres", "redis"]

# Seconds that a command waits for the directory's owner to restart a server: longer than the owner's pauses.
AGAIN_SECONDS = 15.0
AGAIN_POLL_SECONDS: Final = 0.1


class EmbeddedServers:
    """
    The PostgreSQL and the Valkey of one data directory.

    Servers that were already running are used and left running. Servers started here end with `close`, and on Linux
    also with this process, however it ends.
    """

    def __init__(self) -> None:
        self.database_url: str | None = None
        self.redis_url: str | None = None
        # The servers in use, in the order of their starts.
        self.kept: dict[Kind, Kept] = {}
        self._directory: DataDirectory | None = None
        self._ownership: Ownership | None = None
        self._opened_by = os.getpid()

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        postgres: bool = True,
        redis: bool = True,
        serving: bool = False,
        making: bool = True,
        patient: bool = True,
    ) -> "EmbeddedServers":
        """
        Find or start the servers of `data_dir`; call this from the main thread.

        With `serving`, servers that end with another process are not used: this waits for a command to end, and raises
        an error if another process serves. While a process serves, no other process starts its servers: with `patient`,
        this waits until that process has restarted them.

        Without `making`, nothing is made if there is no ledger, and an error is raised.
        """
        servers = cls()
        try:
            servers._open(data_dir, postgres, redis, serving=serving, making=making, patient=patient)
        except OSError as error:
            servers.close()
            raise explain(error, data_dir) from error
        except BaseException:
            servers.close()
            raise
        return servers

    @property
    def postgres_pid(self) -> int | None:
        """The process id of PostgreSQL, if it is in use."""
        return self.kept["postgres"].pid if "postgres" in self.kept else None

    @property
    def redis_pid(self) -> int | None:
        """The process id of Valkey, if it is in use."""
        return self.kept["redis"].pid if "redis" in self.kept else None

    @property
    def started(self) -> bool:
        """Whether at least one server is a child of this object."""
        return bool(self.processes)

    @property
    def processes(self) -> "tuple[subprocess.Popen[bytes], ...]":
        """The servers that are children of this object."""
        return tuple(kept.process for kept in self.kept.values() if kept.process is not None)

    def start_again(self, kept: Kept) -> None:
        """
        Start a server that has ended, unless another process has started it; do not wait until it takes connections.

        Call this from the thread that opened this object.

        Raises:
            LockedError: Another process is starting or stopping servers.
            EmbeddedError: The server cannot be started.
        """
        assert self._directory is not None, "it was opened"
        try:
            with self._directory.locked(0):
                if kept is self.kept.get("postgres") and not self._directory.cluster.exists():
                    # A new, empty cluster would be mistaken for the ledger.
                    raise no_ledger(self._directory.path)
                kept.start()
        except OSError as error:
            raise explain(error, self._directory.path) from error

    def close(self) -> None:
        """Stop the servers that were started here; a second call does nothing."""
        if os.getpid() != self._opened_by:
            # A forked worker inherits this object, but its end must not stop the servers of the other workers.
            return
        with contextlib.ExitStack() as stack:
            if self.started and self._directory is not None:
                # With the lock held, a process that opens the directory now waits, instead of finding servers that are
                # stopping. If the directory is gone or stuck, the servers are stopped without the lock.
                with contextlib.suppress(EmbeddedError, OSError):
                    stack.enter_context(self._directory.locked())
            for kept in reversed(self.kept.values()):
                kept.stop()
            if self._ownership is not None:
                self._ownership.release()
        self._ownership = None

    def __enter__(self) -> "EmbeddedServers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(
        self, data_dir: Path, with_postgres: bool, with_redis: bool, *, serving: bool, making: bool, patient: bool
    ) -> None:
        if not (making or data_dir.exists()):
            raise no_ledger(data_dir)
        # Look for the programs before making anything, so that a missing package leaves no directory behind.
        programs = [postgres_bin("postgres")] if with_postgres else []
        programs += [valkey_bin()] if with_redis else []
        directory = self._directory = DataDirectory.prepare(data_dir, *programs)
        if not (making or directory.is_marked):
            raise no_ledger(data_dir)
        needed: dict[Kind, bool] = {"postgres": with_postgres, "redis": with_redis}
        wanted = [kind for kind, is_needed in needed.items() if is_needed]
        began = time.monotonic()
        while True:
            with directory.locked():
                if with_postgres and not (making or directory.cluster.exists()):
                    raise no_ledger(data_dir)
                directory.adopt()
                self._ownership = own(directory, wanted, serving=serving)
                if self._ownership is not None or not serving:
                    absent = self._find_or_start(directory, wanted)
                    if not (self.started or serving) and self._ownership is not None:
                        self._ownership.release()
                        self._ownership = None
                    if absent is None:
                        return
                    if not patient or time.monotonic() > began + AGAIN_SECONDS:
                        raise absent
            # Wait without the lock: the owner needs it to end or to restart a server.
            if serving:
                wait_for_owner(directory, began + COMMAND_SECONDS)
            else:
                time.sleep(AGAIN_POLL_SECONDS)

    def _find_or_start(self, directory: DataDirectory, wanted: list[Kind]) -> NotRunningError | None:
        """Find or start these servers; return None if all run, or an error if another process has to start one."""
        sockets = directory.sockets()
        database = postgres.Postgres(directory, sockets)
        cache = valkey.Valkey(directory, sockets)
        owner = None if self._ownership is not None else owner_of(directory)
        programs: dict[Kind, postgres.Postgres | valkey.Valkey] = {"postgres": database, "redis": cache}
        missing: list[Kind] = []
        for kind in wanted:
            kept = Kept(programs[kind])
            if kept.find():
                self.kept[kind] = kept
            elif owner is not None and owner.serves and kind in owner.servers:
                return NotRunningError(
                    f"Process {owner.pid} serves from {directory.path}, and its {kept.name} does not run: the log of "
                    "that process says why. It keeps trying to start it."
                )
            else:
                missing.append(kind)
        # Start all at the same time, then wait for Valkey first, because PostgreSQL takes longer.
        for kind in missing:
            self.kept[kind] = Kept(programs[kind])
            self.kept[kind].start()
        for kind in reversed(missing):
            self.kept[kind].wait()
        self.database_url = database.url if "postgres" in wanted else None
        self.redis_url = f"unix://{quote(str(cache.socket))}" if "redis" in wanted else None
        return None
