"""Whether a limit was kept: what was admitted against what it allows, and whether `Retry-After` is true."""

import asyncio
import re
import time
from collections.abc import Mapping

from loadtests.client import Client, UnexpectedAnswer
from loadtests.history.model import Operation
from loadtests.kit.plan import Limit

_POLICY = re.compile(r'"default";q=(\d+);w=(\d+)')
_LEFT = re.compile(r'"default";r=(\d+)')
# Times that Retry-After is waited for.
PROBES = 3
# Seconds in which to be told to wait each time: one connection must use up the tokens faster than they come.
PROBE_SECONDS_MAX = 10.0
# Seconds of a Retry-After that are waited for: longer ones are not judged.
WAIT_SECONDS_MAX = 120.0
_PATH = "/v1/accounts?limit=1"


async def ask_limit(client: Client) -> Limit | None:
    """
    Return the limit of a key that has been idle; None where the server tells none.

    Raises:
        ClientError: The server cannot be reached, or does not take the key.
    """
    answer = await client.ask("GET", _PATH)
    if answer.status != 200:
        raise UnexpectedAnswer("the first request with this key was", answer.status, answer.problem)
    return limit_of(answer.headers)


def limit_of(headers: Mapping[str, str]) -> Limit | None:
    """Return the limit of a key as an answer tells it to a caller that has asked for nothing lately."""
    policy = _POLICY.search(headers.get("ratelimit-policy", ""))
    left = _LEFT.search(headers.get("ratelimit", ""))
    if policy is None or left is None or int(policy[2]) == 0:
        return None
    # This answer has taken a token.
    return Limit(int(policy[1]), int(policy[2]), int(left[1]) + 1)


def accuracy(limit: Limit, sent: list[Operation]) -> dict[str, float]:
    """
    Return how a limit was kept by what was sent to use it up; nothing of nothing.

    Tokens are taken at some instant between sending and answer. So the time from the first sending to the last answer
    is the longest in which they can have come, and the time between first and last sending is one in which they were
    asked for.
    """
    answered = [operation for operation in sent if operation.status]
    if not answered:
        return {}
    admitted = sum(operation.status != 429 for operation in answered)
    first = min(operation.invoked for operation in answered)
    longest = max(operation.ended for operation in answered) - first
    asking = max(operation.invoked for operation in answered) - first
    allowed = max(1.0, limit.rate * asking)
    return {
        "above_limit": admitted - limit.burst - limit.rate * longest,
        "admitted_share": admitted / allowed,
        "offered_times": len(answered) / allowed,
    }


async def probe(client: Client) -> dict[str, float]:
    """
    Use up the tokens, wait as told, and return the share of the waits that were long enough; nobody else may send.

    Nothing where one connection cannot use them up, or the wait is too long.

    Raises:
        NoAnswer: There was no answer.
    """
    true = 0
    for _ in range(PROBES):
        deadline = time.monotonic() + PROBE_SECONDS_MAX
        while (answer := await client.ask("GET", _PATH)).status != 429:
            if time.monotonic() > deadline:
                return {}
        # Without the header the wait is 0 s, which is not long enough.
        if answer.retry_after > WAIT_SECONDS_MAX:
            return {}
        await asyncio.sleep(answer.retry_after)
        true += (await client.ask("GET", _PATH)).status == 200
    return {"retry_after_true": true / PROBES}
