"""How callers learn of limits: the RateLimit fields of an answer, and the problem of a limit that is used up."""

from functools import lru_cache
from typing import Final

from server.gate.keys import ApiKey
from server.gate.limits import Limit
from server.http.headers import RATE_LIMIT
from server.http.problems import Problem, prepared

MICROSECONDS: Final = 1_000_000
# Seconds after which a key with too many running requests may retry: it is not known when they end.
RUNNING_RETRY_SECONDS: Final = 1
# Bodies of 429 that are kept: most floods are answered with the same few numbers of seconds.
PREPARED_MAX: Final = 1_000


def seconds_of(wait: int) -> int:
    """Return *wait* microseconds as whole seconds, rounded up."""
    return -(-wait // MICROSECONDS)


def milliseconds_of(wait: int) -> int:
    """Return *wait* microseconds as whole milliseconds, rounded up."""
    return -(-wait // 1_000)


def limit_fields(key: ApiKey, left: int) -> bytes:
    """Return the header lines about the limit of a key that has *left* whole tokens left."""
    return RATE_LIMIT % (key.policy, left, seconds_until_full(key.limit, left))


def seconds_until_full(limit: Limit, left: int) -> int:
    """Return the whole seconds until a limit with *left* tokens is full again, if no request takes any."""
    quota, window, burst = limit
    return -((left - burst) * window // quota)


class QuotaExceededProblem(Problem):
    """
    The problem of a limit that has no token left. It answers floods, so its body is prepared once and kept.

    Args:
        policy: The name of the limit.

        wait: Microseconds until the limit has room again.
    """

    def __init__(self, policy: str, wait: int) -> None:
        seconds = seconds_of(wait)
        super().__init__(
            "quota_exceeded",
            f"The limit {policy} is used up. Retry in {seconds} s.",
            members={"violated-policies": [policy], "retry_after_ms": milliseconds_of(wait)},
            retry_after=seconds,
        )
        self._policy = policy
        self._wait = wait

    def body(self, request_id: str, *, write: bool) -> bytes:
        """Return the problem as JSON."""
        before, rest = _prepared(self._policy, seconds_of(self._wait), write=write)
        return b"%b%b%b%d}" % (before, request_id.encode(), rest, milliseconds_of(self._wait))


@lru_cache(PREPARED_MAX)
def _prepared(policy: str, seconds: int, *, write: bool) -> tuple[bytes, bytes]:
    """Return the body before the request's id, and from there to the milliseconds, which come last."""
    before, after = prepared(QuotaExceededProblem(policy, seconds * MICROSECONDS), write=write)
    rest, ending = after.rsplit(b"%d" % (seconds * 1_000), 1)
    assert rest.endswith(b'"retry_after_ms":'), "the milliseconds are its last member"
    assert ending == b"}", "as above"
    return before, rest


def too_many_running(key: ApiKey) -> Problem:
    """Return the problem of a key that has as many running requests as it may."""
    return Problem(
        "too_many_running",
        f"The key may have {key.concurrency} requests running at once. Retry when one of them has ended.",
        members={"violated-policies": ["concurrency"], "retry_after_ms": RUNNING_RETRY_SECONDS * 1_000},
        retry_after=RUNNING_RETRY_SECONDS,
    )


def too_costly(key: ApiKey, cost: int, position: int) -> Problem:
    """Return the problem of a request that costs more tokens than the limit at *position* can ever hold."""
    burst = key.limits[position][1].burst
    return Problem(
        "cost_exceeds_capacity", f"The request costs {cost} tokens, but the limit holds only {burst}. Send it in parts."
    )
