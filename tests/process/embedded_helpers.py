"""How the tests look at embedded servers from outside."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from server.process.embedded.binaries import postgres_bin


@contextlib.contextmanager
def open_place() -> Iterator[Path]:
    """A directory with a short path, private as every temporary one."""
    path = Path(tempfile.mkdtemp(prefix="tallystick-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def copied(made: Path, to: Path) -> Path:
    """Copy a data directory whose servers do not run, owners and modes included."""
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["/bin/cp", "-a", made, to], check=True)
    return to


def psql(url: str | None, sql: str) -> str:
    assert url is not None
    command = [str(postgres_bin("psql")), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def valkey(url: str | None, command: str) -> str:
    assert url is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(url.removeprefix("unix://"))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(65_536).decode()


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    status = Path(f"/proc/{pid}/stat")
    with_state = status.read_text().rpartition(")")[2].split() if status.exists() else ["Z"]
    return with_state[0] not in "ZX"


def ended(pid: int | None, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)
