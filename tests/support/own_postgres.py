"""A PostgreSQL that a test may crash and start again."""

import shutil
import signal
import subprocess
from pathlib import Path

from server.process.embedded.servers import EmbeddedServers
from tests.support.waiting import until

# Seconds that a server gets to end at once.
CRASH_SECONDS = 30.0


class OwnPostgres:
    """
    A server that a test may stop and start; its address stays.

    Args:
        folder: For its files.

        fresh: The files of a server at rest, which it begins with.
    """

    def __init__(self, folder: Path, fresh: Path) -> None:
        self._folder = folder
        _copy(fresh, folder / "data")
        self._running = EmbeddedServers.open(folder / "data", redis=False)
        assert self._running.database_url is not None
        self.database_url = self._running.database_url

    def start(self) -> None:
        """Start it, after whatever end; return when it takes connections."""
        self._running = EmbeddedServers.open(self._folder / "data", redis=False)

    async def crash(self) -> None:
        """Stop it as a crash would: no session ends in order, the log is read back at the next start."""
        [server] = self._running.processes
        server.send_signal(signal.SIGQUIT)
        await until(lambda: server.poll() is not None, CRASH_SECONDS)
        self.close()

    def copy(self) -> None:
        """Keep a copy of its files, which must be at rest."""
        _copy(self._folder / "data", self._folder / "copy")

    def put_back(self) -> None:
        """Replace its files, which must be at rest, by the copy."""
        shutil.rmtree(self._folder / "data")
        _copy(self._folder / "copy", self._folder / "data")

    def close(self) -> None:
        """Stop it for good, or take note that it has ended."""
        self._running.close()


def _copy(files: Path, to: Path) -> None:
    """Copy files with their owners."""
    subprocess.run(["/bin/cp", "-a", files, to], check=True)
