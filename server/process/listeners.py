"""The sockets of the workers: bound once, by the supervisor, which keeps them."""

import errno
import socket
import sys
import time
from typing import Final

from server.http.limits import BACKLOG

# Seconds in which the processes of a server that was just killed have released the port.
TAKEN_SECONDS: Final = 0.5
TAKEN_POLL_SECONDS: Final = 0.02

# Elsewhere the last socket bound to a port gets all of its connections.
BALANCED: Final = sys.platform == "linux"


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """
    Return *count* listening sockets of one address, among which the kernel divides the connections.

    Where the kernel does not, all of them are the same one. Nobody else has the port, and no other server of ours
    gets a part of it either.

    Args:
        port: 0 takes a free one.

    Raises:
        OSError: The address is taken or is not this machine's.
    """
    first = open_listener(host, port)
    listeners = [first]
    try:
        if BALANCED:
            # Only now: bound without it, the first socket was refused what any other process has.
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
