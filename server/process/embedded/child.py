"""Starts and stops server processes as children that end with their parent."""

import contextlib
import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .account import Account, become
from .errors import EmbeddedError

PR_SET_PDEATHSIG = 1

# Length of the end of a log that is shown: enough for the cause of a failed start and its hint, and short enough for a
# terminal.
TAIL_LINES = 8
TAIL_BYTES = 16_384

# Time limit of `ps`, which prints one line about one process.
PS_SECONDS = 5.0

# The only environment variables the servers get: no PG* variable may change their behaviour, and no secret may reach
# them.
PASSED_ON = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def spawn(
    argv: Sequence[str | Path],
    *,
    account: Account,
    cwd: Path,
    output: Path,
    death_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    """
    Start a program as `account`, with its output in the file `output`, which is emptied first.

    On Linux the kernel sends the program `death_signal` when this process dies, however it dies.
    """
    if threading.current_thread() is not threading.main_thread():
        # The kernel treats the end of the thread that started the child as the death of the parent.
        raise RuntimeError("embedded servers are started from the main thread only")
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with _owned_file(output, account) as file:
        try:
            return subprocess.Popen(
                [os.fspath(part) for part in argv],
                cwd=cwd,
                env={**environment, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal reaches only the parent, which stops its children in order.
                start_new_session=True,
                preexec_fn=prepared(account, death_signal),  # noqa: PLW1509 (one call, no threads)
            )
        except (OSError, subprocess.SubprocessError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise EmbeddedError(
                f"{argv[0]} cannot be run as the user {account.name}: {reason}. Run "
                "`make setup` again, or name a server of your own (TALLYSTICK_DATABASE_URL, "
                "TALLYSTICK_REDIS_URL)."
            ) from error


def prepared(account: Account, number: signal.Signals) -> Callable[[], None]:
    """
    Return a `preexec_fn` that changes to the account's user, if that is another one.

    On Linux it also asks the kernel to send the child the signal `number` when this process dies, however it dies.
    """
    change_user = become(account) if account.foreign else None
    # Load the library before the fork: between fork and exec the child should only call it.
    prctl = ctypes.CDLL(None, use_errno=True).prctl if platform.system() == "Linux" else None
    parent = os.getpid()

    def prepare() -> None:
        if change_user is not None:
            change_user()
        if prctl is not None:
            # Ask after the change of user, which would clear the request.
            prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:
                # The parent died before the request took effect: no signal would ever stop this child.
                os._exit(1)

    return prepare


def stop(process: subprocess.Popen[bytes], steps: Sequence[tuple[str, float]]) -> None:
    """Send the signals in *steps* one after another, by name, and give the process the seconds beside each to end."""
    for name, seconds in steps:
        process.send_signal(signal.Signals[name])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def command_line(pid: int) -> str:
    """Return the command line of a process, or an empty string if there is no such process."""
    try:
        if sys.platform == "linux":
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        else:
            command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
            text = subprocess.run(command, capture_output=True, timeout=PS_SECONDS, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return os.fsdecode(text)


def tail(path: Path, since: float = 0.0) -> str:
    """Return the last lines of a log, or nothing if it cannot be read or was not written to after *since*."""
    try:
        if path.stat().st_mtime < since:
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


@contextlib.contextmanager
def _owned_file(path: Path, account: Account) -> Iterator[int]:
    # O_NOFOLLOW: root writes here, and the unprivileged user, who owns the directory, could have made a link.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        if account.foreign:
            os.fchown(descriptor, account.uid, account.gid)
        yield descriptor
    finally:
        os.close(descriptor)
