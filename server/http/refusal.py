"""The refusal of a flood: made beforehand but for the request's id, since every request of the flood needs one."""

from typing import Final

from server.http.admission import retry_after
from server.http.call import new_request_id
from server.http.problems import Problem
from server.http.reply import PROBLEM, Reply

# Stands in the prepared text for the id, and is found in no id.
_PLACE: Final = "\x7f"


def _prepared(*, write: bool) -> tuple[bytes, bytes]:
    before, after = Problem("overloaded").body(_PLACE, write=write).split(_PLACE.encode())
    return before, after


_BODIES: Final = {write: _prepared(write=write) for write in (False, True)}


def overloaded(request_id: str, *, write: bool) -> Reply:
    """Return the answer to a request for which there is no room; nothing of it has been done."""
    before, after = _BODIES[write]
    name = request_id.encode()
    headers = b"Retry-After: %d\r\nX-Request-Id: %b\r\n" % (retry_after(), name)
    return Reply(503, b"%b%b%b" % (before, name, after), content_type=PROBLEM, headers=headers)


def full() -> bytes:
    """Return all that is sent on a connection for which there is no room."""
    reply = overloaded(new_request_id(), write=False)
    reply.keep_alive = False
    return reply.encoded()
