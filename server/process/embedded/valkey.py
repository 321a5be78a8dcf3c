"""The embedded Valkey, a Redis server: finds or starts it. It is a cache that may be lost at any moment."""

import contextlib
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from . import child
from .binaries import valkey_bin
from .directory import DataDirectory
from .errors import EmbeddedError, failure

SOCKET = "valkey.sock"
PID_FILE = "valkey.pid"

# A healthy local server answers in a few milliseconds.
ANSWER_SECONDS = 2.0

# It reads nothing when it starts, and answers after about 10 ms.
START_SECONDS = 5.0
POLL_SECONDS = 0.005

# It has nothing to save, so it is killed. After SIGTERM it would go on answering for up to 100 ms, and a start in that
# time would mistake it for a server that stays.
STOP_STEPS = (("SIGKILL", 5.0),)

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    # PostgreSQL alone holds the truth, so nothing here is worth a write to the disk.
    "save": "",
    "appendonly": "no",
    # Room for the buckets, the snapshots, and a few minutes of answers: docs/how-to/deployment.md has the figures.
    "maxmemory": "256mb",
    # Entries with a lifetime can be made again, so the coldest of them are evicted. Buckets have no lifetime, so that a
    # limit is never forgotten when memory is short.
    "maxmemory-policy": "volatile-lru",
    "maxclients": "1000",
    "daemonize": "no",
    "loglevel": "notice",
}


class NotAnsweringError(Exception):
    """The server does not answer, or answers with an error; the message says why."""


@dataclass(frozen=True)
class Valkey:
    """The Valkey server of one data directory."""

    name: ClassVar = "Valkey"

    directory: DataDirectory
    sockets: Path

    @property
    def socket(self) -> Path:
        return self.sockets / SOCKET

    def find(self) -> int | None:
        """Return the pid of the server if it runs."""
        deadline = time.monotonic() + START_SECONDS
        while self.socket.exists():
            try:
                return self._ask()
            except ConnectionRefusedError:
                return None
            except NotAnsweringError as trouble:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"The Valkey of {self.directory.path} (process {self._noted_pid() or 'unknown'}) does "
                        f"not answer: {trouble}. End that process and try again."
                    ) from trouble
            time.sleep(POLL_SECONDS)
        return None

    def running(self) -> int | None:
        """Return the pid of the server if it runs, whether or not it answers."""
        pid = self._noted_pid()
        # Valkey shows the path of its socket in its process title.
        return None if pid is None or str(self.socket) not in child.command_line(pid) else pid

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server; `wait` waits until it takes connections."""
        self.socket.unlink(missing_ok=True)
        places = {"unixsocket": str(self.socket), "pidfile": str(self.sockets / PID_FILE)}
        settings = {**SETTINGS, **places}
        return child.spawn(
            [valkey_bin(), *(part for name, value in settings.items() for part in (f"--{name}", value))],
            account=self.directory.account,
            cwd=self.sockets,
            output=self._output,
            death_signal=signal.SIGKILL,
        )

    def wait(self, process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        """Wait until a server that was just started takes connections, and return it."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError, NotAnsweringError):
                self._ask()
                return process
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                raise failure("Valkey ended while it started", child.tail(self._output), self.directory.path)
            if time.monotonic() > deadline:
                what = f"Valkey does not answer after {START_SECONDS:.0f} seconds"
                raise failure(what, child.tail(self._output), self.directory.path)

    def stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Stop a server that was started here, and remove its socket, because `find` looks there first."""
        child.stop(process, STOP_STEPS)
        with contextlib.suppress(OSError):
            self.socket.unlink()

    def last_words(self, since: float) -> str:
        """Return the last lines of the server's output."""
        return child.tail(self._output, since)

    @property
    def _output(self) -> Path:
        return self.directory.logs / "valkey.log"

    def _noted_pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.sockets / PID_FILE).read_text())
        return None

    def _ask(self) -> int:
        """
        Return the pid of the server, from `INFO`.

        Raises:
            ConnectionRefusedError: No server listens at the socket.
            NotAnsweringError: The server there does not answer, or answers with an error.
        """
        # Loading the driver takes a tenth of a second, so load it here, while PostgreSQL starts.
        from redis import Redis, RedisError  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        client = Redis(
            unix_socket_path=str(self.socket),
            socket_connect_timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            with client:
                return int(client.info("server")["process_id"])
        except RedisError as error:
            # The driver raises the same error for every failure to connect.
            if isinstance(error.__context__, (FileNotFoundError, ConnectionRefusedError)):
                raise ConnectionRefusedError(str(error)) from error
            raise NotAnsweringError(str(error)) from error
