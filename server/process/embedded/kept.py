"""An embedded server that is in use, whether this process started it or found it running."""

import subprocess
import time

from .errors import cause
from .postgres import Postgres
from .valkey import Valkey

# Seconds by which the time stamp of a file may be behind the clock.
CLOCK_SECONDS = 1.0


class Kept:
    """
    A server that is in use: a child of this process, or one that was found.

    Args:
        server: Its programs, files and settings.
    """

    def __init__(self, server: "Postgres | Valkey") -> None:
        self.server = server
        self.process: subprocess.Popen[bytes] | None = None
        self._found: int | None = None
        # Log files written before this time are from an earlier process.
        self._since = 0.0

    @property
    def name(self) -> str:
        """The server's name in messages."""
        return self.server.name

    @property
    def pid(self) -> int | None:
        """The id of its process, which may have ended."""
        return self._found if self.process is None else self.process.pid

    def find(self) -> bool:
        """Return whether it runs; if it is starting or stopping, wait until it is done."""
        self._take(None, self.server.find())
        return self._found is not None

    def start(self) -> None:
        """Start it, or use the one that runs: see `Postgres.start`."""
        running = self.server.running()
        self._take(self.server.start() if running is None else None, running)

    def wait(self) -> None:
        """Wait until it takes connections after `start`."""
        if self.process is not None:
            self.process = self.server.wait(self.process)

    def stop(self) -> None:
        """Stop it if it was started here."""
        if self.process is not None:
            self.server.stop(self.process)
            self._found, self.process = self.process.pid, None

    def has_ended(self) -> bool:
        """Return whether it no longer runs."""
        if self.process is not None:
            return self.process.poll() is not None
        return self._found is None or self.server.running() != self._found

    def ending(self) -> str:
        """Return how it ended, with the last lines of its output."""
        code = None if self.process is None else self.process.returncode
        how = "" if code is None else f": signal {-code}" if code < 0 else f": code {code}"
        said = cause(self.server.last_words(self._since), self.server.directory.path)
        return f"{self.name} (process {self.pid}) ended{how}. {said}"

    def _take(self, process: "subprocess.Popen[bytes] | None", found: int | None) -> None:
        self.process, self._found = process, found
        self._since = time.time() - CLOCK_SECONDS
