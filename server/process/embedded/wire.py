"""Just enough of two protocols to ask a server on a unix socket who it is."""

import socket
import struct
from pathlib import Path

# A healthy local server answers in a few milliseconds, a starting one refuses as fast.
ANSWER_SECONDS = 2.0

# The longest reply read here is Valkey's INFO with about 2 kB.
ANSWER_BYTES_MAX = 1_048_576

PROTOCOL_3_0 = 196_608
AUTHENTICATION_OK = 0


class ServerRefused(Exception):
    """The server answered with an error; `code` is the SQLSTATE for PostgreSQL."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def postgres_query(
    path: Path, user: str, database: str, sql: str, seconds: float = ANSWER_SECONDS
) -> list[list[str | None]]:
    """Run one statement over a connection of its own and return the rows as text."""
    with _connect(path, seconds) as connection:
        names = b"".join(part.encode() + b"\0" for part in ("user", user, "database", database, ""))
        connection.sendall(struct.pack("!II", len(names) + 8, PROTOCOL_3_0) + names)
        _postgres_replies(connection)
        text = sql.encode() + b"\0"
        connection.sendall(b"Q" + struct.pack("!I", len(text) + 4) + text)
        rows = _postgres_replies(connection)
        connection.sendall(b"X" + struct.pack("!I", 4))
        return rows


def valkey_info(path: Path) -> dict[str, str]:
    """The section `server` of Valkey's INFO."""
    with _connect(path, ANSWER_SECONDS) as connection:
        connection.sendall(b"INFO server\r\n")
        head = b""
        while not head.endswith(b"\r\n"):
            head += _receive(connection, 1)
        if not head.startswith(b"$"):
            raise ServerRefused("", head.decode("utf-8", "replace").strip())
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


def _postgres_replies(connection: socket.socket) -> list[list[str | None]]:
    """Read until the server is ready for the next statement."""
    rows: list[list[str | None]] = []
    while True:
        kind, size = struct.unpack("!cI", _receive(connection, 5))
        body = _receive(connection, size - 4)
        if kind == b"E":
            fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
            raise ServerRefused(fields.get(b"C", b"").decode(), fields.get(b"M", b"").decode("utf-8", "replace"))
        if kind == b"R" and struct.unpack("!I", body[:4])[0] != AUTHENTICATION_OK:
            raise ServerRefused("28000", "the server asks for a password")
        if kind == b"D":
            rows.append(_postgres_row(body))
        if kind == b"Z":
            return rows


def _postgres_row(body: bytes) -> list[str | None]:
    (count,) = struct.unpack("!H", body[:2])
    row: list[str | None] = []
    position = 2
    for _ in range(count):
        (size,) = struct.unpack("!i", body[position : position + 4])
        position += 4
        if size < 0:
            row.append(None)
        else:
            row.append(body[position : position + size].decode("utf-8", "surrogateescape"))
            position += size
    return row
