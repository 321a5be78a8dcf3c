"""The embedded Valkey, a Redis server: a cache that may be lost at any moment."""

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

# It has nothing to read at its start, and answers after some 10 ms.
START_SECONDS = 5.0
POLL_SECONDS = 0.005

# It has nothing to save, so it is killed: asked to end, it would go on answering for up to 100 ms, and a start in that
# time would take it for a server that stays.
STOP_STEPS = (("SIGKILL", 5.0),)

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    # PostgreSQL alone is the truth: nothing here is worth a write to the disk.
    "save": "",
    "appendonly": "no",
    # Room for the buckets, the snapshots, and some minutes of answers: docs/how-to/deployment.md counts them.
    "maxmemory": "256mb",
    # What has a lifetime can be made again, so the coldest of it goes. Buckets have none: a limit is
    # never forgotten for want of memory.
    "maxmemory-policy": "volatile-lru",
    "maxclients": "1000",
    "daemonize": "no",
    "loglevel": "notice",
}


class NotAnsweringError(Exception):
    """The server does not answer, or with an error; the message says why."""


@dataclass(frozen=True)
class Valkey:
    """The Valkey of one data directory."""

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
        # It calls itself by the place where it listens.
        return None if pid is None or str(self.socket) not in child.command_line(pid) else pid

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server, which takes connections a moment later: see `wait`."""
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
        """Return a server just started when it takes connections."""
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
        """Stop a server that was started here, and remove its socket, where the next start looks first."""
        child.stop(process, STOP_STEPS)
        with contextlib.suppress(OSError):
            self.socket.unlink()

    def last_words(self, since: float) -> str:
        """Return the last lines of the server."""
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
        Return the pid of the server, by `INFO`.

        Raises:
            ConnectionRefusedError: Nobody listens at the socket.
            NotAnsweringError: The server there does not answer, or with an error.
        """
        # Loading the driver takes a tenth of a second, in which PostgreSQL starts.
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
