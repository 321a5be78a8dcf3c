"""A PostgreSQL that a test may crash and start again."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

from server.process.embedded import EmbeddedServers, postgres_bin
from tests.support.postgres import administer

# Seconds that pg_ctl gets.
CONTROL_SECONDS = 30.0


class OwnPostgres:
    """A server that a test may stop and start; its address stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = EmbeddedServers.open(folder / "data", redis=False)
        assert self._running.database_url is not None
        self.database_url = self._running.database_url
        # PostgreSQL refuses root, and so does pg_ctl: it runs as whoever owns the data.
        self._owner = (folder / "data").stat()

    def start(self) -> None:
        """Start it, after whatever end; return when it takes connections."""
        self._running = EmbeddedServers.open(self._folder / "data", redis=False)

    async def crash(self) -> None:
        """Stop it as a crash would: no session ends in order, the log is read back at the next start."""
        [row] = await administer(self.database_url, "SELECT current_setting('data_directory') AS place")
        owner, other = self._owner, self._owner.st_uid != os.geteuid()
        child = await asyncio.create_subprocess_exec(
            postgres_bin("pg_ctl"),
            *("stop", "-D", row["place"], "-m", "immediate"),
            cwd="/",
            user=owner.st_uid if other else None,
            group=owner.st_gid if other else None,
            extra_groups=[] if other else None,
            stdout=subprocess.DEVNULL,
        )
        assert await asyncio.wait_for(child.wait(), CONTROL_SECONDS) == 0
        self.close()

    def copy(self) -> None:
        """Keep a copy of its files, which must be at rest."""
        subprocess.run(["/bin/cp", "-a", self._folder / "data", self._folder / "copy"], check=True)

    def put_back(self) -> None:
        """Replace its files, which must be at rest, by the copy."""
        shutil.rmtree(self._folder / "data")
        subprocess.run(["/bin/cp", "-a", self._folder / "copy", self._folder / "data"], check=True)

    def close(self) -> None:
        """Stop it for good, or take note that it has ended."""
        self._running.close()
