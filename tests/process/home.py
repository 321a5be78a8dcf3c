"""Places for embedded servers, and `tallystick serve` in one of them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.command import Ended, ended, start
from tests.support.folders import server_folder

START_SECONDS = 60.0
# Seconds without a line after which none is on its way.
QUIET_SECONDS = 0.2


@contextmanager
def place() -> Iterator[Path]:
    """Lend a short path that does not exist."""
    with server_folder("tallystick-test-") as folder:
        yield folder / "data"


class Home:
    """
    `tallystick serve` with embedded servers.

    Args:
        data_dir: Folder of their data.

        settings: Further ones, by name, without the prefix.
    """

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self._settings = settings
        self.welcome: list[str] = []
        self._logged = b""
        self._child: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Of the server, as it printed it."""
        line = next(line for line in self.welcome if line.startswith("Tallystick serves at "))
        return line.split()[3]

    @property
    def key(self) -> str:
        """Of the demo ledger, as it printed it."""
        return next(line for line in self.welcome if line.startswith("  KEY=")).removeprefix("  KEY=")

    @property
    def pid(self) -> int:
        """Of the process; 0 before it is started."""
        return 0 if self._child is None else self._child.pid

    async def start(self) -> None:
        """Start it and read its welcome to the end."""
        self._child = await start("serve", "--port", "0", "--data-dir", str(self.data_dir), **self._settings)
        assert self._child.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            while not self.welcome or not self.welcome[-1].startswith("Send the second line again"):
                line = await self._child.stdout.readline()
                if not line:
                    raise AssertionError(f"it ended: {await ended(self._child)}")
                self.welcome.append(line.decode().rstrip("\n"))

    async def forget(self) -> None:
        """Leave behind what it has logged, once no more comes."""
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._line()
        self._logged = b""

    async def logs(self, text: str) -> list[str]:
        """Return what it has logged when a line with that text has come."""
        async with asyncio.timeout(START_SECONDS):
            while text not in self._logged.decode():
                await self._line()
        return self._logged.decode().splitlines()

    async def _line(self) -> None:
        assert self._child is not None
        assert self._child.stderr is not None
        line = await self._child.stderr.readline()
        assert line, f"it ended: {self._logged.decode()}"
        self._logged += line

    async def stop(self, number: int = signal.SIGTERM) -> Ended:
        """Send it a signal and wait for its end."""
        assert self._child is not None
        if self._child.returncode is None:
            os.kill(self._child.pid, number)
        end = await ended(self._child)
        return end._replace(err=self._logged.decode() + end.err)
