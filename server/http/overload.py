"""The refusal of an overloaded worker. Its body is prepared, because every request of a flood needs one."""

from typing import Final

from server.http.headers import retry_after
from server.http.problems import Problem, prepared, retry_after_seconds
from server.http.reply import PROBLEM, Reply

_BODIES: Final = {write: prepared(Problem("overloaded"), write=write) for write in (False, True)}


def overloaded(request_id: str, *, write: bool) -> Reply:
    """Return the answer to a request for which there is no room; the request had no effect."""
    body = request_id.encode().join(_BODIES[write])
    return Reply(503, body, content_type=PROBLEM, headers=retry_after(retry_after_seconds()))
