"""A PostgreSQL server that a test may crash and restart."""

import shutil
import signal
import subprocess
from pathlib import Path

from server.process.embedded.servers import EmbeddedServers
from tests.support.waiting import until

# Seconds a server has to end after a crash signal.
CRASH_SECONDS = 30.0


class OwnPostgres:
    """
    A server that a test may stop and start; its address stays the same.

    Args:
        folder: The folder for its files.

        fresh: The files of a stopped server, which are copied.
    """

    def __init__(self, folder: Path, fresh: Path) -> None:
        self._folder = folder
        _copy(fresh, folder / "data")
        self._running = EmbeddedServers.open(folder / "data", redis=False)
        assert self._running.database_url is not None
        self.database_url = self._running.database_url

    def start(self) -> None:
        """Start it, however it ended, and wait until it takes connections."""
        self._running = EmbeddedServers.open(self._folder / "data", redis=False)

    async def crash(self) -> None:
        """Stop it as a crash would: no session ends in order, and the next start replays the log."""
        [server] = self._running.processes
        server.send_signal(signal.SIGQUIT)
        await until(lambda: server.poll() is not None, CRASH_SECONDS)
        self.close()

    def copy(self) -> None:
        """Copy its files; the server must not run."""
        _copy(self._folder / "data", self._folder / "copy")

    def put_back(self) -> None:
        """Replace its files by the copy; the server must not run."""
        shutil.rmtree(self._folder / "data")
        _copy(self._folder / "copy", self._folder / "data")

    def close(self) -> None:
        """Stop it, or clean up if it has ended."""
        self._running.close()


def _copy(files: Path, to: Path) -> None:
    """Copy files with their owners."""
    subprocess.run(["/bin/cp", "-a", files, to], check=True)
