"""The refusal of a worker that has more to do than it can: prepared, since every request of a flood needs one."""

from typing import Final

from server.http.headers import retry_after
from server.http.problems import Problem, retry_after_seconds
from server.http.reply import PROBLEM, Reply

# Stands in a prepared body for the id of the request, and is found in no id.
_PLACE: Final = "\x7f"
_BODIES: Final = {
    write: Problem("overloaded").body(_PLACE, write=write).split(_PLACE.encode()) for write in (False, True)
}


def overloaded(request_id: str, *, write: bool) -> Reply:
    """Return the answer to a request for which there is no room; nothing of it has been done."""
    body = request_id.encode().join(_BODIES[write])
    return Reply(503, body, content_type=PROBLEM, headers=retry_after(retry_after_seconds()))
