"""
The rules for sending a request until its outcome is known: what is sent when, and what an answer means.

Nothing here reads, writes or sleeps. A course is a generator that yields each step and is sent its result. The drivers
of the two clients carry out the steps, one blocking and one under asyncio, so both clients follow the same rules.
"""

import random
import re
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from tallystick_client.answers import Page, Posted, Problem, Results, Transfer
from tallystick_client.errors import (
    AddressError,
    OutcomeUnknownError,
    ProblemError,
    RefusedError,
    TallystickError,
    UnavailableError,
)
from tallystick_client.request import Repeat, Request, get, segment

T = TypeVar("T")

# Seconds between attempts if the answer names none: the first pause, which doubles each time, and the longest one.
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 2.0
# Pauses are lengthened at random by up to this share, so that callers refused together do not come back together.
JITTER = 0.5
# The part of the deadline kept to look up a payment whose answers were lost: seconds, and the largest share.
LOOK_UP_SECONDS, LOOK_UP_SHARE = 5.0, 0.25
# Statuses after which the request may succeed later; some come from a balancer.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
# The code of a 409 because another request under the same key is still running.
_IN_USE = "idempotency_key_in_use"
# Codes which show that no earlier attempt of the same request was done.
_NEVER_DONE = frozenset({"idempotency_key_reused", "account_exists"})
_TRANSFERS = "/v1/transfers"
# The service's default of `expires_in`, in seconds.
_HOLD_SECONDS = 604_800
# A Retry-After that is a number of seconds.
_SECONDS = re.compile(r"[0-9]{1,9}")


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Broken(NamedTuple):
    """No complete answer; `sent`: the request may have arrived; `no_tls`: the server does not speak TLS."""

    reason: str
    sent: bool
    no_tls: bool = False


class Send(NamedTuple):
    """Send a request; the result is an Answer or Broken, after so many seconds at most."""

    request: Request[Any]
    seconds: float


class Pause(NamedTuple):
    """Wait for so many seconds."""

    seconds: float


class Item(NamedTuple, Generic[T]):
    """Hand an item to the caller of an iteration."""

    value: T


@dataclass(frozen=True)
class Failed(Generic[T]):
    """
    An attempt that failed.

    Attributes:
        error: The error to raise if this is the last attempt.

        again: Whether the same request may succeed later.

        unknown: Whether the request may have been done.

        settled: Whether this decides the outcome, whatever became of earlier attempts.

        asked_seconds: The pause that the answer asks for.

        partial: The results of a bulk of which some items may succeed later.
    """

    error: TallystickError
    again: bool = False
    unknown: bool = False
    settled: bool = False
    asked_seconds: float = 0.0
    partial: T | None = None


@dataclass(frozen=True)
class Done(Generic[T]):
    """An attempt that succeeded, and its answer."""

    value: T


# Yields steps for a driver, is sent their results, and returns the outcome.
Course = Generator[Any, Any, T]


class Rules:
    """
    The rules of one client.

    Args:
        deadline_seconds: The time a call may take with all its attempts and pauses.

        clock: Returns the time in seconds.
    """

    def __init__(self, deadline_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline_seconds = deadline_seconds
        self.clock = clock

    def call(self, request: Request[T]) -> Course[T]:
        """Send a request until its outcome is known or the deadline has passed."""
        end = self.clock() + self.deadline_seconds
        kept = min(LOOK_UP_SECONDS, self.deadline_seconds * LOOK_UP_SHARE) if request.key else 0.0
        last = yield from self._attempts(request, end, kept)
        if isinstance(last, Done):
            return last.value
        if not last.unknown:
            if last.partial is not None:
                return last.partial
            raise last.error
        if request.key is not None and request.answer is Posted:
            found = yield from self._attempts(_look_up(request.key), end)
            if isinstance(found, Done):
                return _bound(request, found.value)
        raise OutcomeUnknownError(request, str(last.error)) from last.error

    def pages(self, request: Request[Page[T]]) -> Course[None]:
        """Hand over the rows of a list, reading each page when it is needed; each page has the whole deadline."""
        cursor = None
        while True:
            page = yield from self.call(replace(request, parameters={**request.parameters, "cursor": cursor}))
            for row in page.data:
                yield Item(row)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _attempts(self, request: Request[T], end: float, kept_seconds: float = 0.0) -> Course[Done[T] | Failed[T]]:
        """
        Send a request until it is done or another attempt cannot help; return the last result.

        Args:
            kept_seconds: Time to keep before *end* for a look-up, if the request may have been done.
        """
        pause_seconds = PAUSE_SECONDS
        lost = False
        while True:
            left = end - self.clock()
            verdict = judge(
                request, (yield Send(request, min(request.seconds_max, left - min(kept_seconds, left / 2))))
            )
            if isinstance(verdict, Done) or verdict.settled:
                return verdict
            lost = lost or verdict.unknown
            last = replace(verdict, unknown=lost)
            if not verdict.again or (lost and request.repeat is Repeat.NOTHING):
                return last
            seconds = pause(verdict.asked_seconds, pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
            if self.clock() + seconds >= end - (kept_seconds if lost else 0.0):
                return last
            yield Pause(seconds)


def judge(request: Request[T], reply: Answer | Broken) -> Done[T] | Failed[T]:
    """Return what an answer means for a request."""
    writes = request.repeat is not Repeat.READ
    if isinstance(reply, Broken) and reply.no_tls:
        return Failed(AddressError(f"the server does not speak TLS: {reply.reason}"))
    if isinstance(reply, Broken):
        return Failed(UnavailableError(reply.reason), again=True, unknown=writes and reply.sent)
    if 200 <= reply.status < 300:
        return _success(request, reply)
    problem = _problem(reply)
    if problem is None:
        reason = f"{request} was answered {reply.status} with an incomplete problem"
        return Failed(UnavailableError(reason), again=True, unknown=writes)
    asked = _asked_seconds(problem, reply.headers)
    if problem.outcome == "refused":
        return Failed(RefusedError(problem), settled=True)
    # A proxy may have answered while the server is still working on the request.
    unknown = writes and (problem.outcome == "unknown" or (problem.outcome is None and problem.status >= 500))
    settled = problem.code in _NEVER_DONE
    return Failed(ProblemError(problem), _is_transient(problem), unknown, settled, asked)


def _success(request: Request[T], reply: Answer) -> Done[T] | Failed[T]:
    try:
        value = msgspec.json.decode(reply.body, type=request.answer)
    except msgspec.DecodeError as error:
        media_type = reply.headers.get("content-type", "json")
        if request.repeat is Repeat.READ and "json" not in media_type:
            return Failed(AddressError(f"{request} was answered {reply.status} with {media_type}"))
        reason = (
            f"{request} was answered {reply.status} with something that is not a complete answer of Tallystick: {error}"
        )
        return Failed(UnavailableError(reason), again=True, unknown=request.repeat is not Repeat.READ)
    if isinstance(value, Results):
        waiting = [item.problem for item in value.results if item.problem and _is_transient(item.problem)]
        if waiting:
            return Failed(ProblemError(waiting[0]), again=True, partial=value)
    if isinstance(value, Posted):
        value = msgspec.structs.replace(value, replayed=reply.headers.get("idempotent-replayed") == "true")
    return Done(value)


def _is_transient(problem: Problem) -> bool:
    return (problem.status in TRANSIENT or problem.code == _IN_USE) and problem.retry in (None, "same_key")


def pause(asked_seconds: float, usual_seconds: float) -> float:
    """Return how long to wait: at least as long as asked for, with jitter."""
    return max(asked_seconds, usual_seconds) * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311 -- jitter, not a secret


def _look_up(key: str) -> Request[Posted]:
    return get(f"/v1/idempotency-keys/{segment(key)}", Posted)


def _bound(request: Request[T], found: Posted) -> T:
    """
    Return the transfer that a key is bound to as the answer to a request.

    Raises:
        RefusedError: The transfer was refused.

        ProblemError: It is a different transfer, because the key was used before.
    """
    fields = _differences(request, found)
    if fields:
        detail = "The key is bound to another transfer."
        raise ProblemError(
            Problem(
                status=422,
                code="idempotency_key_reused",
                detail=detail,
                outcome="not_applied",
                retry="new_key",
                fields=fields,
                transfer_id=found.id,
            )
        )
    if found.problem is not None:
        raise RefusedError(found.problem)
    return msgspec.structs.replace(found, replayed=True)  # type: ignore[return-value]  # T is Posted: only such have a key


def _differences(request: Request[Any], found: Transfer) -> tuple[str, ...]:
    """
    Return the members in which a transfer differs from the one that a request asks for.

    `conditions` and `release_rest` are not compared, because a transfer does not show them.
    """
    body = request.body or {}
    if request.path == _TRANSFERS:
        names = ("source", "destination", "amount", "currency", "reference", "description")
        asked = {name: body.get(name) for name in names}
        asked |= {"kind": "hold" if body.get("hold") else "transfer", "metadata": body.get("metadata") or {}}
    else:
        *_, parent, action = request.path.split("/")
        asked = {"parent": parent.lower(), "kind": "reversal" if action == "reverse" else action}
        if body.get("amount") is not None:
            asked["amount"] = body["amount"]
    told = {name: getattr(found, name) for name in asked}
    if request.path == _TRANSFERS:
        dated = body.get("effective_at")
        asked["effective_at"] = found.created_at if dated is None else datetime.fromisoformat(str(dated))
        told["effective_at"] = found.effective_at
        if found.hold is not None:
            asked["expires_in"] = body.get("expires_in") or _HOLD_SECONDS
            told["expires_in"] = (found.hold.expires_at - found.created_at).total_seconds()
    # A refused transfer does not show accounts that do not exist.
    return tuple(
        name for name in asked if told[name] != asked[name] and not (told[name] is None and found.state == "refused")
    )


def _problem(reply: Answer) -> Problem | None:
    """Return the problem in an answer, None if it is incomplete, or a problem with only the status if it is none."""
    try:
        found = msgspec.json.decode(reply.body, type=Problem)
        if found.status == reply.status:
            return found
    except msgspec.ValidationError:
        # It is complete JSON, but not a problem of Tallystick.
        pass
    except msgspec.DecodeError:
        if "json" in reply.headers.get("content-type", ""):
            return None
    detail = "The answer does not come from Tallystick, but from something in between."
    if 300 <= reply.status < 400:
        detail = f"Redirects are not followed; this one leads to {reply.headers.get('location', 'nowhere')}."
    return Problem(status=reply.status, detail=detail)


def _asked_seconds(problem: Problem, headers: Mapping[str, str]) -> float:
    """Return how long an answer asks to wait: from `retry_after_ms`, or else from Retry-After (seconds or a date)."""
    if problem.retry_after_ms is not None:
        return problem.retry_after_ms / 1_000
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
