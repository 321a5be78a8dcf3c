"""The command `serve`: opens the sockets, starts the workers, and prepares the rest while these load their code."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable

from server.process.listeners import open_listener, open_listeners
from server.process.supervisor import Supervisor
from server.process.timeouts import TIMEOUTS, Timeouts
from server.settings import WORKERS_MAX, Loaded

# The exit code of a program that a signal has ended is this plus the number of the signal.
EXIT_SIGNAL = 128


def serve(loaded: Loaded, reload: Callable[[], Loaded], timeouts: Timeouts = TIMEOUTS) -> str | None:
    """
    Serve until SIGTERM or Ctrl-C.

    Args:
        reload: Returns the current settings; called on SIGHUP.

        timeouts: Time-outs for child processes.

    Returns:
        The reason why nothing can be served, or None.

    Raises:
        EmbeddedError, StoreError, OSError, DatabaseError: The embedded servers cannot be started or migrated.
    """
    settings = loaded.settings
    # The kernel does not deliver a signal to process 1 of a container unless it has a handler.
    end_by_signal()
    with contextlib.ExitStack() as stack:
        try:
            listeners = open_listeners(settings.host, settings.port, worker_count(settings.workers))
            for listener in listeners:
                stack.enter_context(listener)
        except OSError as error:
            return f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        try:
            admin = stack.enter_context(open_listener(settings.admin_host, settings.admin_port))
        except OSError as error:
            return (
                f"cannot listen on {settings.admin_host}:{settings.admin_port}: {error.strerror}; name another port "
                "for operators with --admin-port, 0 for any"
            )
        supervisor = stack.enter_context(
            Supervisor(listeners, admin, background=settings.background, timeouts=timeouts)
        )
        # Import this only now: it takes as long as a worker takes to load, and both can go on at the same time.
        from server.process.commands.supervise import supervise  # noqa: PLC0415

        url = _url(listeners[0])
        try:
            return supervise(loaded, reload, supervisor, url, admin)
        finally:
            end_by_signal()


def worker_count(setting: str) -> int:
    """Return how many workers the setting asks for: a number, or `auto` for one per processor this process may use."""
    if setting != "auto":
        return int(setting)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, WORKERS_MAX)


def end_by_signal() -> None:
    """Let SIGTERM, SIGHUP and Ctrl-C end this process in order while no event loop handles signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)


def end_if_signalled() -> None:
    """
    End this process if a signal has come without effect.

    An exception that a signal handler raises is lost while C code calls Python, for example during an import.

    Raises:
        SystemExit: A signal has come.
    """
    if _signals:
        raise SystemExit(EXIT_SIGNAL + _signals[0])


# The numbers of signals that have come.
_signals: list[int] = []


def _end(number: int, _: object) -> None:
    _signals.append(number)
    raise SystemExit(EXIT_SIGNAL + number)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
