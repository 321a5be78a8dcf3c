"""The embedded Valkey, a Redis server: a cache that may be lost at any moment."""

import contextlib
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import child, wire
from .binaries import valkey_bin
from .directory import DataDirectory
from .errors import EmbeddedError, failure

SOCKET = "valkey.sock"
PID_FILE = "valkey.pid"

# It has nothing to read at its start, and answers after some 10 ms.
START_SECONDS = 5.0
POLL_SECONDS = 0.005

# SIGTERM is noticed at its next tick, within 100 ms.
STOP_STEPS = (("SIGTERM", 2.0), ("SIGKILL", 5.0))

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    # PostgreSQL alone is the truth: nothing here is worth a write to the disk.
    "save": "",
    "appendonly": "no",
    # Room for the buckets, the snapshots, and some minutes of answers: docs/deployment.md counts them.
    "maxmemory": "256mb",
    # What has a lifetime can be made again, so the coldest of it goes. Buckets have none: a limit is
    # never forgotten for want of memory.
    "maxmemory-policy": "volatile-lru",
    "maxclients": "1000",
    "daemonize": "no",
    "loglevel": "notice",
}


@dataclass(frozen=True)
class Valkey:
    """The Valkey of one data directory."""

    directory: DataDirectory
    sockets: Path

    @property
    def socket(self) -> Path:
        return self.sockets / SOCKET

    def find(self) -> int | None:
        """The pid of the server when it runs."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._ask()
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            except (OSError, wire.ServerRefused) as trouble:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"The Valkey of {self.directory.path} (process {self._noted_pid()}) does "
                        f"not answer: {trouble}. End that process and try again."
                    ) from trouble
            time.sleep(POLL_SECONDS)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server; it takes connections then."""
        self.socket.unlink(missing_ok=True)
        places = {"unixsocket": str(self.socket), "pidfile": str(self.sockets / PID_FILE)}
        settings = {**SETTINGS, **places}
        output = self.directory.logs / "valkey.log"
        process = child.spawn(
            [valkey_bin(), *(part for name, value in settings.items() for part in (f"--{name}", value))],
            account=self.directory.account,
            cwd=self.sockets,
            output=output,
            # Killed at once, since it has nothing to save: asked to end, it would go on answering
            # for a tick, and the next start would take it for a server that stays.
            death_signal=signal.SIGKILL,
        )
        try:
            self._wait_until_ready(process, output)
        except BaseException:
            child.stop(process, STOP_STEPS)
            raise
        return process

    def _noted_pid(self) -> str:
        with contextlib.suppress(OSError):
            return (self.sockets / PID_FILE).read_text().strip()
        return "unknown"

    def _ask(self) -> int:
        return int(wire.valkey_info(self.socket)["process_id"])

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, wire.ServerRefused):
                self._ask()
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                raise failure("Valkey ended while it started", child.tail(output), self.directory.path)
            if time.monotonic() > deadline:
                what = f"Valkey does not answer after {START_SECONDS:.0f} seconds"
                raise failure(what, child.tail(output), self.directory.path)
