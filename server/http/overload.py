"""The refusals of a worker that has more to do than it can: prepared, since every request of a flood needs one."""

import random
from typing import Final

from server.http.problems import Problem
from server.http.reply import PROBLEM, Reply, retry_after

# Seconds after which a refused request is worth another try, at least and at most: spread, so that they do not all
# come back at once.
RETRY_AFTER_SECONDS: Final = (1, 3)
# Stands in a prepared body for the id of the request, and is found in no id.
_PLACE: Final = "\x7f"
_BODIES: Final = {
    write: Problem("overloaded").body(_PLACE, write=write).split(_PLACE.encode()) for write in (False, True)
}


def retry_after_seconds() -> int:
    """Return seconds after which a request that could not be served now is worth another try."""
    first, last = RETRY_AFTER_SECONDS
    return first + int(random.random() * (last + 1 - first))  # noqa: S311 -- jitter, not a secret


def overloaded(request_id: str, *, write: bool) -> Reply:
    """Return the answer to a request for which there is no room; nothing of it has been done."""
    body = request_id.encode().join(_BODIES[write])
    return Reply(503, body, content_type=PROBLEM, headers=retry_after(retry_after_seconds()))
