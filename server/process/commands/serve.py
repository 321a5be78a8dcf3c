"""The command `serve`: sockets first, then workers, and while these are loaded, what they serve from."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable

from server.process.listeners import open_listener, open_listeners
from server.process.metrics_folder import MetricsFolder
from server.process.patience import PATIENCE, Patience
from server.process.supervisor import Supervisor
from server.settings import WORKERS_MAX, Loaded

# Exit code of a program that a signal has ended, less the signal's number.
EXIT_SIGNAL = 128


def serve(loaded: Loaded, reload: Callable[[], Loaded], patience: Patience = PATIENCE) -> str | None:
    """
    Serve until SIGTERM or Ctrl-C.

    Args:
        reload: Gives the settings as they are now; called on SIGHUP.

        patience: How long workers are waited for.

    Returns:
        Why nothing can be served, if that is so.

    Raises:
        EmbeddedError, StoreError, OSError, DatabaseError: The embedded servers cannot be started or migrated.
    """
    settings = loaded.settings
    # Process 1 of a container is sent no signal that it has no handler for.
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
        metrics = stack.enter_context(MetricsFolder())
        supervisor = stack.enter_context(Supervisor(listeners, metrics, patience))
        # Loading this takes as long as loading a worker, and both go on at the same time.
        from server.process.commands.supervise import supervise  # noqa: PLC0415

        url = _url(listeners[0])
        try:
            return supervise(loaded, reload, supervisor, url, admin)
        finally:
            end_by_signal()


def worker_count(setting: str) -> int:
    """Return how many workers the setting asks for: a number, or `auto` for one a processor this process may use."""
    if setting != "auto":
        return int(setting)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, WORKERS_MAX)


def end_by_signal() -> None:
    """Have SIGTERM and SIGHUP end this process in order, as Ctrl-C does, while no loop hears them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)


def end_if_told() -> None:
    """
    End this process if it was told to and nothing came of it: what a handler raises is lost where Python calls back
    out of its own depths, as it does while it imports.

    Raises:
        SystemExit: It was.
    """
    if _told:
        raise SystemExit(EXIT_SIGNAL + _told[0])


# Signals that were heard.
_told: list[int] = []


def _end(number: int, _: object) -> None:
    _told.append(number)
    raise SystemExit(EXIT_SIGNAL + number)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
