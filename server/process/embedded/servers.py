"""Both servers of one data directory, as one context manager."""

import contextlib
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from . import child, postgres, valkey
from .binaries import postgres_bin, valkey_bin
from .directory import DataDirectory
from .errors import EmbeddedError, explain
from .ownership import COMMAND_SECONDS, Ownership, own, wait_for_owner


class EmbeddedServers:
    """
    The PostgreSQL and the Valkey of one data directory.

    Servers that were running already are used and left alone; those started here end with
    `close`, and on Linux also with this process, however it ends.
    """

    def __init__(self) -> None:
        self.database_url: str | None = None
        self.redis_url: str | None = None
        self.postgres_pid: int | None = None
        self.redis_pid: int | None = None
        self._directory: DataDirectory | None = None
        self._postgres: subprocess.Popen[bytes] | None = None
        self._valkey: subprocess.Popen[bytes] | None = None
        self._cache: valkey.Valkey | None = None
        self._ownership: Ownership | None = None
        self._opened_by = os.getpid()

    @classmethod
    def open(
        cls, data_dir: Path, *, postgres: bool = True, redis: bool = True, serving: bool = False
    ) -> "EmbeddedServers":
        """
        Find or start the servers of `data_dir`; to be called from the main thread.

        A process that is `serving` never uses servers that end with another process: it waits for a command to end,
        and raises an error when another process serves.
        """
        servers = cls()
        try:
            servers._open(data_dir, postgres, redis, serving)
        except OSError as error:
            servers.close()
            raise explain(error, data_dir) from error
        except BaseException:
            servers.close()
            raise
        return servers

    @property
    def started(self) -> bool:
        """Whether at least one server is a child of this object."""
        return self._postgres is not None or self._valkey is not None

    @property
    def processes(self) -> "tuple[subprocess.Popen[bytes], ...]":
        """The servers that are children of this object."""
        return tuple(process for process in (self._postgres, self._valkey) if process is not None)

    def close(self) -> None:
        """Stop what was started here; a second call does nothing."""
        if os.getpid() != self._opened_by:
            # A forked worker inherits this object, and its end must not stop its siblings' servers.
            return
        with contextlib.ExitStack() as stack:
            if self.started and self._directory is not None:
                # A process that opens the directory now waits, instead of finding servers that stop. If the
                # directory is gone or stuck, they are stopped all the same.
                with contextlib.suppress(EmbeddedError, OSError):
                    stack.enter_context(self._directory.locked())
            if self._valkey is not None and self._cache is not None:
                self._cache.stop(self._valkey)
            if self._postgres is not None:
                child.stop(self._postgres, postgres.STOP_STEPS)
            if self._ownership is not None:
                self._ownership.release()
        self._postgres = self._valkey = self._ownership = None

    def __enter__(self) -> "EmbeddedServers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, data_dir: Path, with_postgres: bool, with_redis: bool, serving: bool) -> None:
        # Checked before anything is made: a missing package leaves no directory behind.
        programs = [postgres_bin("postgres")] if with_postgres else []
        programs += [valkey_bin()] if with_redis else []
        directory = self._directory = DataDirectory.prepare(data_dir, *programs)
        deadline = time.monotonic() + COMMAND_SECONDS
        while True:
            with directory.locked():
                directory.adopt()
                self._ownership = own(directory, serving=serving)
                if self._ownership is not None or not serving:
                    self._find_or_start(directory, with_postgres, with_redis)
                    if not (self.started or serving) and self._ownership is not None:
                        self._ownership.release()
                        self._ownership = None
                    return
            # Not while the directory is locked: the owner locks it before it ends.
            wait_for_owner(directory, deadline)

    def _find_or_start(self, directory: DataDirectory, with_postgres: bool, with_redis: bool) -> None:
        sockets = directory.sockets()
        database = postgres.Postgres(directory, sockets)
        cache = self._cache = valkey.Valkey(directory, sockets)
        if with_postgres:
            self.postgres_pid = database.find()
            if self.postgres_pid is None:
                self._postgres = database.start()
        if with_redis:
            self.redis_pid = cache.find()
            if self.redis_pid is None:
                self._valkey = cache.start()
        # Both start at the same time, and PostgreSQL takes longer.
        if self._valkey is not None:
            cache.wait(self._valkey)
            self.redis_pid = self._valkey.pid
        if self._postgres is not None:
            self._postgres = database.wait(self._postgres)
            self.postgres_pid = self._postgres.pid
        self.database_url = database.url if with_postgres else None
        self.redis_url = f"unix://{quote(str(cache.socket))}" if with_redis else None
