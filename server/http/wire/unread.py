"""Requests of a flood: they wait for a place as unparsed bytes, because most of them are refused."""

import re
from typing import Final

from server.http.wire.head import Head, sane_request_id

# The most bytes of a request that waits unread: enough for a usual head and a transfer.
UNREAD_MAX_BYTES: Final = 8 * 1024

_HOT: Final = re.compile(rb"(?:GET /v1/accounts/[^/?% \r\n]+|POST /v1/transfers) HTTP/1\.1\r\n")
# The fields that decide where a request ends, who sent it, from which page, and what happens to its connection.
_FIELD: Final = re.compile(
    rb"\r\n(authorization|connection|content-length|expect|origin|transfer-encoding|upgrade|x-request-id)"
    rb"[ \t]*:[ \t]*([^\r\n]*)",
    re.IGNORECASE,
)


class Unread:
    """
    A request that waits unread, and the bytes that have arrived behind it.

    Args:
        data: The whole request, and nothing else.

        request_id: The caller's, if it gave one that is safe to repeat.

        origin: The origin of the page that sent the request; empty if there is none.

        arrived: When it arrived, on the clock of `time.monotonic`, in seconds.
    """

    __slots__ = ("arrived", "data", "origin", "request_id", "rest", "write")

    def __init__(self, data: bytes, request_id: str | None, origin: str, arrived: float) -> None:
        self.data = data
        self.origin = origin
        self.rest = b""
        self.write = data[:1] == b"P"
        self.arrived = arrived
        self.request_id = request_id

    @property
    def route(self) -> tuple[str, str]:
        """The method of the request and the path of its route."""
        return ("POST", "/v1/transfers") if self.write else ("GET", "/v1/accounts/{id}")


def unread(data: bytes, before: Head, arrived: float) -> Unread | None:
    """
    Return *data* as an unread request if it is surely one whole request of the same caller as before; otherwise None.

    An unread request is later parsed, or all of its bytes are thrown away. So bytes that another reader could take for
    two requests, or for part of one, are not accepted here.

    Args:
        before: The checked head of the previous request on the connection.

        arrived: When the request arrived, on the clock of `time.monotonic`.
    """
    if len(data) > UNREAD_MAX_BYTES or _HOT.match(data) is None:
        return None
    end = data.find(b"\r\n\r\n")
    if end < 0 or data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end):
        return None
    size, request_id, origin, seen = 0, None, "", set()
    for name, value in _FIELD.findall(data, 0, end):
        field = name.lower()
        if field in seen:
            return None
        seen.add(field)
        if field == b"authorization":
            if value != before.authorization.encode(errors="surrogateescape"):
                return None
        elif field == b"content-length" and data[:1] == b"P" and value.isdigit():
            size = int(value)
        elif field == b"origin":
            origin = value.decode("latin-1")
        elif field == b"x-request-id":
            request_id = sane_request_id(value.decode("latin-1"))
        elif field != b"connection" or value.lower() != b"keep-alive":
            return None
    if b"authorization" not in seen or len(data) != end + 4 + size:
        return None
    return Unread(data, request_id, origin, arrived)
