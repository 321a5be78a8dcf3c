"""Valkey servers that a test starts, breaks and ends itself, on a unix socket and a TCP port."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis, RedisError

from loadtests.processes import free_port
from server.process.embedded.binaries import valkey_bin

# Seconds a server has to answer after its start.
START_SECONDS = 45.0


class OwnValkey:
    """
    A server of one test.

    Args:
        folder: The folder for its socket and log; its path must be short, because that of a socket is limited.

        settings: More settings, by name.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.socket = folder / f"{self.port}.sock"
        self._folder = folder
        self._settings = {"save": "", "appendonly": "no", "loglevel": "warning", **settings}
        self.cluster_port = settings.get("cluster_port", "")
        self._password = settings.get("requirepass")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of its socket."""
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        """The address of its TCP port."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {"port": str(self.port), "bind": "127.0.0.1", "unixsocket": str(self.socket), **self._settings}
        arguments = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [valkey_bin(), *arguments], cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("PING")
                return
            except (RedisError, OSError):
                assert self._process.poll() is None, (self._folder / f"{self.port}.log").read_text()
                assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop its process during the block; it always continues afterwards."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def ask(self, *command: object) -> Any:
        """Send it a command on a new connection."""
        with Redis(unix_socket_path=str(self.socket), password=self._password, socket_timeout=5) as client:
            return client.execute_command(*command)

    def calls(self, command: str) -> int:
        """Return how often clients have run a command."""
        return int(self.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


@contextlib.contextmanager
def running_valkey(folder: Path, **settings: str) -> Iterator[OwnValkey]:
    """Start a server, and stop it afterwards, whatever the test has done to it."""
    server = OwnValkey(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
