"""The listening sockets of the workers: the supervisor binds them once and keeps them."""

import errno
import socket
import sys
import time
from typing import Final

from server.http.limits import BACKLOG

# Seconds to wait for a port that is taken: the processes of a server that was just killed release it within this time.
TAKEN_SECONDS: Final = 0.5
TAKEN_POLL_SECONDS: Final = 0.02

# Whether the kernel divides the connections to a port among its sockets. Elsewhere the last socket bound to the port
# gets all of them.
BALANCED: Final = sys.platform == "linux"


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """
    Return *count* listening sockets for one address, among which the kernel divides the connections.

    Where the kernel does not divide them, all are duplicates of one socket. If any other process has the port, even
    another server of ours, this fails.

    Args:
        port: 0 takes a free port.

    Raises:
        OSError: The address is taken or is not this machine's.
    """
    first = open_listener(host, port)
    listeners = [first]
    try:
        if BALANCED:
            # Set this only after the bind: without it, the bind failed if any other process had the port.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address = first.getsockname()[:2]
        while len(listeners) < count:
            listeners.append(_open(address, shared=True) if BALANCED else first.dup())
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def open_listener(host: str, port: int) -> socket.socket:
    """
    Return a listening socket.

    Raises:
        OSError: The address is taken or is not this machine's.
    """
    deadline = time.monotonic() + TAKEN_SECONDS
    while True:
        try:
            return _open((host, port), shared=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(TAKEN_POLL_SECONDS)


def _open(address: tuple[str, int], *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
