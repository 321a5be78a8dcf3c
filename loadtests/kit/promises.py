"""Whether promises were kept: those to every virtual user, by the books after the run, and the limit of a key."""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from loadtests.books import record_books
from loadtests.client import Client
from loadtests.figures import quantile
from loadtests.history.checks import by_key, check
from loadtests.history.model import History, Operation, load_folder
from loadtests.history.recorder import Recorder
from loadtests.history.verdict import CHECKS, Verdict
from loadtests.kit.catalogue import PERCENTILES, SCENARIOS
from loadtests.kit.plan import Limit, Plan

# All sendings of each key.
Sent = dict[str, list[Operation]]
_POLICY = re.compile(r'"default";q=(\d+);w=(\d+)')
_LEFT = re.compile(r'"default";r=(\d+)')
# Times that Retry-After is waited for.
PROBES = 3
# Seconds in which to be told to wait each time: one connection must use up the tokens faster than they come.
PROBE_SECONDS_MAX = 10.0
# Seconds of a Retry-After that are waited for: longer ones are not judged.
WAIT_SECONDS_MAX = 120.0
_PATH = "/v1/accounts?limit=1"
# The checks that make sense without faults.
_CHECKS = [name for name in CHECKS if name != "C8"]


async def verify(plan: Plan, client: Client) -> tuple[Verdict, dict[str, float]]:
    """Read the books, check the history of all users against them, and return what was found and the figures of it."""
    folder = Path(plan.folder)
    with Recorder(folder / "books.jsonl") as recorder:
        await record_books(client, recorder, plan.prefix)
    history = load_folder(folder)
    verdict = check(history, _CHECKS)
    sent = {key: operations for (_, key), operations in by_key(history).items()}
    figures = _figures(plan, history, sent, verdict)
    return verdict, {**figures, "cut_short": float((folder / "full").exists())}


def _figures(plan: Plan, history: History, sent: Sent, verdict: Verdict) -> dict[str, float]:
    by_users = [operation for operation in history.operations if operation.process != "prepare"]
    latencies = _latencies(by_users)
    different = len({violation.what for violation in verdict.violations if violation.check == "C4"})
    figures = {
        "lies": float(len(verdict.violations)),
        "unknown": float(sum(not _is_known(operations) for operations in sent.values())),
        "unjudged": float(sum(not verdict.judged[name] for name in SCENARIOS[plan.scenario].must_judge.split())),
        **{name: round(quantile(latencies, share), 1) for name, share in PERCENTILES.items()},
    }
    if verdict.judged["C4"]:
        figures["replays_equal"] = 1 - different / verdict.judged["C4"]
    if plan.scenario == "retry_storm":
        figures.update(_storms(sent))
    if plan.scenario == "flood" and plan.limit is not None:
        figures.update(accuracy(plan.limit, by_users))
    if plan.shape == "soak":
        figures.update(_drift(by_users))
    return figures


def _is_known(operations: list[Operation]) -> bool:
    """Tell whether the caller knows in the end: answered for ever, or told every time that nothing was done."""
    return any(operation.bound for operation in operations) or all(o.outcome == "fail" for o in operations)


def _storms(sent: Sent) -> dict[str, float]:
    """Of the requests that were sent several times at once and answered every time."""
    storms = [operations for operations in sent.values() if len(operations) > 1 and all(o.bound for o in operations)]
    once = sum(sum(not operation.replayed for operation in operations) == 1 for operations in storms)
    return {"one_first": once / len(storms)} if storms else {}


def _latencies(operations: Iterable[Operation]) -> list[float]:
    """Return the milliseconds of all that was answered, but of what a limit has refused."""
    return sorted(1e3 * (o.ended - o.invoked) for o in operations if o.status not in (0, 429))


def _drift(sent: list[Operation]) -> dict[str, float]:
    """Compare the latencies of the last third with those of the first."""
    if not sent:
        return {}
    first, last = min(o.invoked for o in sent), max(o.invoked for o in sent)
    third = (last - first) / 3
    early = quantile(_latencies(o for o in sent if o.invoked < first + third), 0.95)
    late = quantile(_latencies(o for o in sent if o.invoked >= last - third), 0.95)
    return {"drift": late / early} if early else {}


async def ask_limit(client: Client) -> Limit | None:
    """Return the limit of a key that has been idle; None where the server tells none."""
    answer = await client.ask("GET", _PATH)
    if errors := answer.unsuccessful("the first request with this key was", ()):
        raise errors[0]
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
