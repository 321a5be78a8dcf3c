"""The refusal of a worker that has more to do than it can: prepared, since every request of a flood needs one."""

from typing import Final

from server.http.headers import retry_after
from server.http.problems import Problem, prepared, retry_after_seconds
from server.http.reply import PROBLEM, Reply

_BODIES: Final = {write: prepared(Problem("overloaded"), write=write) for write in (False, True)}


def overloaded(request_id: str, *, write: bool) -> Reply:
    """Return the answer to a request for which there is no room; nothing of it has been done."""
    body = request_id.encode().join(_BODIES[write])
    return Reply(503, body, content_type=PROBLEM, headers=retry_after(retry_after_seconds()))
