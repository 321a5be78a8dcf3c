"""Limits, as callers see them."""

import asyncio
from collections.abc import Callable
from typing import NoReturn, TypeVar

import msgspec

from server.gate.gate import Entry, LookUp
from server.gate.keys import ApiKey
from server.http.body import decode, read_body
from server.http.call import Call
from server.http.limits import BULK_BODY_MAX_BYTES
from server.http.parts import Parts
from server.http.problems import Problem

B = TypeVar("B")

MICROSECONDS = 1_000_000
# Seconds after which a key that has too many requests running may try again: when they end, nobody knows.
RUNNING_RETRY_SECONDS = 1


async def admit(call: Call, parts: Parts, cost: int = 1, look_up: LookUp = LookUp.NOTHING, name: bytes = b"") -> Entry:
    """
    Take *cost* tokens for a request and look up what it needs, in one round trip.

    Raises:
        Problem: The tokens are not there (429), or can never be (400). No idempotency key is bound.
        QueueFullError: Too much waits already.
    """
    refused = parts.gate.used_up(call.key) if cost == 1 else None
    return judge(call, cost, refused or await parts.gate.enter(call.key, cost, look_up, name))


def run(call: Call, parts: Parts, look_up: LookUp, name: bytes) -> "asyncio.Future[Entry] | None":
    """
    Count a request of a known key as running, and ask the gate for it as `admit` does.

    Returns:
        What the gate will say; None where the key has as many running as it may, and nothing was done.

    Raises:
        QueueFullError: Too much waits already; it is not running.
    """
    key = call.key
    if not parts.running.enter(key):
        return None
    try:
        return parts.gate.enter(key, 1, look_up, name)
    except BaseException:
        parts.running.leave(key)
        raise


def judge(call: Call, cost: int, entry: Entry) -> Entry:
    """
    Return what the gate said to a request that may go on, and note what its caller is told of the limit.

    Raises:
        Problem: As `admit`.
    """
    note_limit(call, entry)
    if entry.wait == 0:
        return entry
    key = call.key
    if entry.wait < 0:
        burst = key.limits[entry.waits_for][1].burst
        raise Problem("cost_exceeds_capacity", f"The request costs {cost} tokens; the limit holds {burst} of them.")
    raise used_up(key.policies[entry.waits_for], entry.wait)


def note_limit(call: Call, entry: Entry) -> None:
    """Note what the caller is told of its limit, whatever the answer is."""
    key = call.key
    full = full_in(key, entry.left)
    call.limit_fields = b'RateLimit-Policy: %b\r\nRateLimit: "default";r=%d;t=%d\r\n' % (key.policy, entry.left, full)


def full_in(key: ApiKey, left: int) -> int:
    """Return whole seconds until a key that has *left* tokens has all of them again."""
    limit = key.limit
    return -(-(limit.burst - left) * limit.window // limit.quota)


def seconds_of(wait: int) -> int:
    """Return whole seconds that are no shorter than *wait* microseconds."""
    return -(-wait // MICROSECONDS)


def milliseconds_of(wait: int) -> int:
    """Return whole milliseconds that are no shorter than *wait* microseconds."""
    return -(-wait // 1_000)


def used_up(policy: str, wait: int) -> Problem:
    """Return the problem of a limit that has room again in *wait* microseconds."""
    seconds = seconds_of(wait)
    return Problem(
        "quota_exceeded",
        f"The limit {policy} is used up; there is room again in {seconds} s.",
        members={"violated-policies": [policy], "retry_after_ms": milliseconds_of(wait)},
        headers=[("Retry-After", str(seconds))],
    )


async def refuse_running(call: Call, parts: Parts) -> NoReturn:
    """
    Refuse a request whose key has as many running as it may; it costs no tokens.

    Raises:
        Problem: Always.
        QueueFullError: Too much waits already.
    """
    await admit(call, parts, 0)
    raise Problem(
        "too_many_running",
        f"The key may have {call.key.concurrency} requests running at once.",
        members={"violated-policies": ["concurrency"], "retry_after_ms": RUNNING_RETRY_SECONDS * 1_000},
        headers=[("Retry-After", str(RUNNING_RETRY_SECONDS))],
    )


async def read_bulk(
    call: Call, parts: Parts, decoder: "msgspec.json.Decoder[B]", items: Callable[[B], int]
) -> tuple[bytes, B]:
    """
    Read and decode the body of a bulk, and take a token for each of its items, or one when it is malformed.

    Returns:
        The body as received, and what it holds.

    Raises:
        Problem: As `admit`, `read_body` and `decode`.
    """
    try:
        body = await read_body(call, BULK_BODY_MAX_BYTES)
        bulk = decode(decoder, body)
    except Problem:
        await admit(call, parts)
        raise
    await admit(call, parts, items(bulk))
    return body, bulk
