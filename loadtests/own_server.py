"""
A Tallystick server of one's own: its own port and data, started, asked for a key, audited, stopped.

Used through the command line like by any operator, so that a run needs nothing prepared.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
PROJECT = Path(__file__).resolve().parents[1]
# The first start makes a database cluster, on a busy machine too.
READY_SECONDS_MAX = 180.0
READY_POLL_SECONDS = 0.2
# Above the server's own drain: it stops its database and cache after the last request.
STOP_SECONDS_MAX = 30.0
KILLED_SECONDS_MAX = 10.0
COMMAND_SECONDS_MAX = 60.0
# An audit folds every entry of every account.
AUDIT_SECONDS_MAX = 600.0
# A replay asks how fast the ledger posts, not whether the limiter limits.
PLENTY = ("--rate", "1000000/s", "--burst", "1000000", "--concurrency", "100000")
LOG_LINES_SHOWN = 20
# In the command line of the process that serves.
WORKER = b"server.process.worker"
LOG_BYTES_SHOWN_MAX = 16_384


class ServerError(Exception):
    """The server of one's own could not be started, or one of its commands failed."""


class OwnServer:
    """A running server and the commands that reach it through its data directory."""

    def __init__(self, program: Path, data: Path, log: IO[bytes]) -> None:
        self._program = program
        self._data = data
        self._log = log
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}"
        self._process = subprocess.Popen(
            [
                program,
                "serve",
                *("--host", HOST, "--port", str(self._port), "--admin-port", "0"),
                # What is measured is one worker: beside it, a small machine has room for the generator.
                *("--workers", "1", "--data-dir", data),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            # Ctrl-C in a terminal reaches a whole group; this server is stopped after its client.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the server's process, the supervisor of its worker."""
        return self._process.pid

    def family(self) -> list[int]:
        """The processes of the server and of all it has started, on Linux."""
        return family(self.pid)

    @property
    def worker(self) -> int:
        """The process that serves, on Linux; 0 elsewhere."""
        for member in self.family():
            try:
                if WORKER in Path(f"/proc/{member}/cmdline").read_bytes():
                    return member
            except OSError:
                continue
        return 0

    def wait_until_ready(self) -> None:
        """Return when `GET /readyz` answers 200."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"the server ended before it was ready:\n{self.log_tail()}")
            if _is_ready(self._port):
                return
            time.sleep(READY_POLL_SECONDS)
        raise ServerError(f"not ready in {READY_SECONDS_MAX:.0f} s:\n{self.log_tail()}")

    def create_key(self, ledger: str, limits: Sequence[str] = PLENTY) -> str:
        """The secret of a new admin key for the ledger, which is made if it does not exist."""
        done = self._run("keys", "create", "--ledger", ledger, "--role", "admin", *limits)
        words = done.stdout.split()
        if done.returncode != 0 or len(words) != 1:
            raise ServerError(f"keys create made no key (exit {done.returncode}):\n{said(done)}")
        return words[0]

    def audit(self) -> "subprocess.CompletedProcess[str]":
        """What `tallystick audit` says of this server's books; exit code 0 when they are right."""
        return self._run("audit", seconds_max=AUDIT_SECONDS_MAX)

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        # The server writes at the offset it shares with this file object; pread leaves it alone.
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - LOG_BYTES_SHOWN_MAX)
        text = os.pread(self._log.fileno(), LOG_BYTES_SHOWN_MAX, start)
        lines = text.decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:])

    def stop(self) -> None:
        """Ask the server to end, wait for a bounded time, then end it and what it started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # The group is this server's alone (start_new_session); its id is the process's.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(KILLED_SECONDS_MAX)

    def _run(self, *arguments: str, seconds_max: float = COMMAND_SECONDS_MAX) -> "subprocess.CompletedProcess[str]":
        command = [str(self._program), *arguments, "--data-dir", str(self._data)]
        return run_command(command, seconds_max, _environment())


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server on a free port with new data, ready; both are gone afterwards."""
    program = find_program()
    data = Path(tempfile.mkdtemp(prefix="tallystick-own-"))
    try:
        with tempfile.TemporaryFile() as log:
            server = OwnServer(program, data, log)
            try:
                server.wait_until_ready()
                yield server
            finally:
                server.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def family(root: int) -> list[int]:
    """A process and all that it and those have started, on Linux."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything; the parent comes second behind it.
            parent = int(status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [root]
    for member in found:
        found += children.get(member, [])
    return found


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use, where the system tells (Linux); 0 elsewhere, and for no process."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def run_command(
    command: Sequence[str], seconds_max: float, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a command that ends by itself, without a terminal, and keep what it said."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            env=environment,
            check=False,
        )
    except OSError as error:
        raise ServerError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"{' '.join(command)} did not end in {seconds_max:.0f} s") from error


def said(done: "subprocess.CompletedProcess[str]") -> str:
    # Last what it came to: on stderr are its errors, or how far it was.
    lines = (done.stderr + done.stdout).splitlines()
    return "\n".join(lines[-LOG_LINES_SHOWN:])


def find_program() -> Path:
    """Return the `tallystick` command of this checkout."""
    for folder in (Path(sys.executable).parent, PROJECT / ".venv" / "bin"):
        if (folder / "tallystick").exists():
            return folder / "tallystick"
    raise ServerError("there is no tallystick command beside this python; run `make setup`")


def _environment() -> dict[str, str]:
    # A database named in the caller's environment is not this server's to write to.
    return {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
