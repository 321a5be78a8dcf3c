"""The refusals of floods: made beforehand but for the request's id, since every request of a flood needs one."""

from functools import lru_cache
from typing import Final

from server.gate.gate import Entry
from server.http.admission import retry_after
from server.http.admit import MICROSECONDS, milliseconds_of, note_limit, seconds_of, used_up
from server.http.call import Call, new_request_id
from server.http.problems import Problem
from server.http.reply import PROBLEM, Reply, clock, status_line

# Stands in the prepared text for the id, and is found in no id.
_PLACE: Final = "\x7f"
# Bodies of 429 that are kept: most floods are told one number of seconds for long.
_LIMITED_KEPT: Final = 1_000


def _prepared(problem: Problem, *, write: bool) -> tuple[bytes, bytes]:
    before, after = problem.body(_PLACE, write=write).split(_PLACE.encode())
    return before, after


_AT_ONCE: Final = (
    status_line(503)
    + b"%bRetry-After: %d\r\nX-Request-Id: %b\r\nContent-Type: "
    + PROBLEM
    + b"\r\nContent-Length: %d\r\n\r\n%b%b%b"
)
_OVERLOADED: Final = {write: _prepared(Problem("overloaded"), write=write) for write in (False, True)}


@lru_cache(_LIMITED_KEPT)
def _limited(policy: str, seconds: int, *, write: bool) -> tuple[bytes, bytes]:
    """Return the body before the request's id, and from there to the milliseconds, which end it."""
    before, after = _prepared(used_up(policy, seconds * MICROSECONDS), write=write)
    rest, ending = after.rsplit(b"%d" % (seconds * 1_000), 1)
    assert rest.endswith(b'"retry_after_ms":'), "the milliseconds are its last member"
    assert ending == b"}", "as above"
    return before, rest


def limited_body(policy: str, wait: int, request_id: str, *, write: bool) -> bytes:
    """Return the problem of a limit that has room again in *wait* microseconds."""
    before, rest = _limited(policy, seconds_of(wait), write=write)
    return b"%b%b%b%d}" % (before, request_id.encode(), rest, milliseconds_of(wait))


def limited(call: Call, entry: Entry) -> bytes:
    """Return all that is sent to a request whose key has no token; nothing of it has been done."""
    note_limit(call, entry)
    return limited_by(call, call.key.policies[entry.waits_for], entry.wait)


def limited_by(call: Call, policy: str, wait: int) -> bytes:
    """Return all that is sent to a request when a limit has room again in *wait* microseconds."""
    body = limited_body(policy, wait, call.request_id, write=call.write)
    reply = Reply(429, body, content_type=PROBLEM, headers=b"Retry-After: %d\r\n" % seconds_of(wait))
    return reply.encoded(call.own_fields())


def overloaded(request_id: str, *, write: bool) -> Reply:
    """Return the answer to a request for which there is no room; nothing of it has been done."""
    name = request_id.encode()
    headers = b"Retry-After: %d\r\nX-Request-Id: %b\r\n" % (retry_after(), name)
    return Reply(503, name.join(_OVERLOADED[write]), content_type=PROBLEM, headers=headers)


def overloaded_at_once(request_id: str, *, write: bool) -> bytes:
    """Return all that is sent as `overloaded`, without making the reply first: a flood is refused by the thousand."""
    name = request_id.encode()
    before, after = _OVERLOADED[write]
    return _AT_ONCE % (
        clock.field(),
        retry_after(),
        name,
        len(before) + len(name) + len(after),
        before,
        name,
        after,
    )


def full() -> bytes:
    """Return all that is sent on a connection for which there is no room."""
    reply = overloaded(new_request_id(), write=False)
    reply.keep_alive = False
    return reply.encoded()


def late() -> bytes:
    """Return all that is sent on a connection where the head of a request has not come to its end in time."""
    request_id = new_request_id()
    # Its method may be among what is missing: what a write is told holds for a read too.
    body = Problem("request_timeout", "The head did not arrive whole in time.").body(request_id, write=True)
    reply = Reply(408, body, content_type=PROBLEM, headers=b"X-Request-Id: %b\r\n" % request_id.encode())
    reply.keep_alive = False
    return reply.encoded()
