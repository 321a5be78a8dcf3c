"""Just enough of its protocol to ask a Valkey on a unix socket who it is."""

import socket
from pathlib import Path

# A healthy local server answers in a few milliseconds, a starting one refuses as fast.
ANSWER_SECONDS = 2.0

# The longest reply read here is Valkey's INFO with about 2 kB.
ANSWER_BYTES_MAX = 1_048_576


class ServerRefused(Exception):
    """The server answered with an error."""


def valkey_info(path: Path) -> dict[str, str]:
    """The section `server` of Valkey's INFO."""
    with _connect(path, ANSWER_SECONDS) as connection:
        connection.sendall(b"INFO server\r\n")
        head = b""
        while not head.endswith(b"\r\n"):
            head += _receive(connection, 1)
        if not head.startswith(b"$"):
            raise ServerRefused(head.decode("utf-8", "replace").strip())
        body = _receive(connection, int(head[1:])).decode("utf-8", "replace")
    pairs = (line.partition(":") for line in body.splitlines())
    return {name: value for name, separator, value in pairs if separator}


def _connect(path: Path, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket, size: int) -> bytes:
    if not 0 <= size <= ANSWER_BYTES_MAX:
        raise OSError(f"the server announced a reply of {size} bytes")
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionResetError("the server closed the connection")
        parts += part
    return bytes(parts)
