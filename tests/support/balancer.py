"""Runs HAProxy and nginx as child processes, with the configuration files that are shipped."""

import asyncio
import os
import re
import shutil
import signal
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest

from loadtests.processes import free_port
from tests.support.waiting import until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
# .ci/run sets this variable, so that a missing program fails the tests that need it; elsewhere they are skipped.
ALL_TESTS = "TESTS_LEAVE_NOTHING_OUT"
# Seconds a balancer has to listen, to answer on its socket, or to end.
START_SECONDS = 45.0
RUNTIME_SECONDS = 20.0
STOP_SECONDS = 45.0
# Most bytes read at once from the runtime socket; an answer about two servers has two kilobytes.
RUNTIME_MAX_BYTES = 1024 * 1024
# The state of an open connection in /proc/net/tcp.
ESTABLISHED = "01"
_VARIABLE = re.compile(r"\$\{(BALANCER_[A-Z0-9_]+)\}")


def program(name: str) -> str:
    """Return the path of a program; if it is not installed, skip the test, or fail it in CI."""
    # Debian installs these programs in folders that only root has on its PATH.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        leave_out(f"{name} is not installed (Debian: apt-get install haproxy nginx-light hledger)")
    return path


def leave_out(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI."""
    if os.environ.get(ALL_TESTS):
        pytest.fail(f"{reason}, and CI must not leave these tests out")
    pytest.skip(reason)


class Balancer:
    """
    A balancer in front of two servers.

    Args:
        folder: The folder for its files; its path must be short, because that of a socket is limited.

        servers: The servers' ports on 127.0.0.1.

        variables: More variables of its configuration file.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, servers: "tuple[int, int]", **variables: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "BALANCER_LISTEN": f"127.0.0.1:{self.port}",
            "BALANCER_SERVER_1": f"127.0.0.1:{servers[0]}",
            "BALANCER_SERVER_2": f"127.0.0.1:{servers[1]}",
            **variables,
        }
        self._child: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        """Return the command to run."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """The file of its log."""
        return self.folder / f"{self.name}.log"

    async def uses(self, number: int) -> bool:
        """Return whether it sends requests to server *number*, 0 or 1."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it and wait until it listens."""
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self.command(), cwd=self.folder, env={**os.environ, **self.variables}, stdout=log, stderr=log
            )
        await until(self._listens, START_SECONDS)

    async def stop(self) -> None:
        """End it, if it runs."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(child.wait(), STOP_SECONDS)
        except TimeoutError:
            child.kill()
            await child.wait()

    async def _listens(self) -> bool:
        assert self._child is not None
        assert self._child.returncode is None, self.log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


class Haproxy(Balancer):
    """HAProxy with `deploy/haproxy.cfg`, unchanged."""

    name = "haproxy"

    def __init__(self, folder: Path, servers: "tuple[int, int]", **variables: str) -> None:
        self.runtime = folder / "haproxy.sock"
        self.metrics_port = free_port()
        places = {"BALANCER_RUNTIME": str(self.runtime), "BALANCER_METRICS": f"127.0.0.1:{self.metrics_port}"}
        super().__init__(folder, servers, **places, **variables)

    def command(self) -> list[str]:
        """Return the command to run."""
        return [program("haproxy"), "-W", "-f", str(DEPLOY / "haproxy.cfg")]

    async def ask(self, command: str) -> str:
        """Send a command to the runtime socket and return the answer."""
        async with asyncio.timeout(RUNTIME_SECONDS):
            reader, writer = await asyncio.open_unix_connection(self.runtime)
            writer.write(command.encode() + b"\n")
            answer = await reader.read(RUNTIME_MAX_BYTES)
            while more := await reader.read(RUNTIME_MAX_BYTES):
                answer += more
            writer.close()
        return answer.decode()

    async def _listens(self) -> bool:
        if not await super()._listens():
            return False
        try:
            _, writer = await asyncio.open_unix_connection(self.runtime)
        except OSError:
            return False
        writer.close()
        return True

    async def uses(self, number: int) -> bool:
        """Return whether it sends requests to server *number*, 0 or 1."""
        return (await self.state(("one", "two")[number]))["status"].startswith("UP")

    async def state(self, server: str) -> dict[str, str]:
        """Return its statistics of a server: `status`, `scur` (running), `stot` (served), `weight`, and more."""
        header, *rows = (await self.ask("show stat")).lstrip("# ").strip().splitlines()
        for row in rows:
            found = dict(zip(header.split(","), row.split(","), strict=False))
            if (found["pxname"], found["svname"]) == ("tallystick", server):
                return found
        raise AssertionError(f"there is no server {server}")


class Nginx(Balancer):
    """nginx with `deploy/nginx.conf`, with the addresses inserted as its comments say."""

    name = "nginx"

    def command(self) -> list[str]:
        """Write the configuration with the addresses, and return the command to run."""
        text = (DEPLOY / "nginx.conf").read_text()
        (self.folder / "nginx.conf").write_text(_VARIABLE.sub(lambda match: self.variables[match[1]], text))
        path = program("nginx")
        return [path, "-e", "stderr", "-p", str(self.folder), "-c", "nginx.conf", "-g", "daemon off;"]

    async def uses(self, number: int) -> bool:
        """Return whether it sends a server more than the one request with which it checks that it is back."""
        port = self.variables[f"BALANCER_SERVER_{number + 1}"].rpartition(":")[2]
        return sum(row[2].endswith(f":{int(port):04X}") and row[3] == ESTABLISHED for row in _connections()) > 1


BALANCERS = {"haproxy": Haproxy, "nginx": Nginx}


def _connections() -> list[list[str]]:
    """Return the TCP connections of this machine, as the kernel shows them."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
