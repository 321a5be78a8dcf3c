"""
Judges whether promises were kept: those to every virtual user, by the books after the run, and the limit of a key.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from pathlib import Path

from loadtests.books import record_books
from loadtests.client import Client
from loadtests.figures import quantile
from loadtests.history.checks import CHECKS, check
from loadtests.history.model import History, Operation, Verdict, load_folder
from loadtests.history.recorder import FAIL, Recorder
from loadtests.kit.catalogue import PERCENTILES, SCENARIOS
from loadtests.kit.plan import Limit, Plan
from tallystick_client import AsyncTallystick

# How often a Retry-After is tested.
PROBES = 3
# Seconds in which each test must get a 429, and requests sent at once: they must use up tokens faster than they come.
PROBE_SECONDS_MAX = 10.0
PROBED_AT_ONCE = 8
# The longest Retry-After in seconds that is waited for.
WAIT_SECONDS_MAX = 120
_PATH = "/v1/accounts?limit=1"
# The checks that make sense without faults.
_CHECKS = {name: check for name, check in CHECKS.items() if name != "C8"}


async def verify(plan: Plan, client: AsyncTallystick, limit: Limit) -> tuple[Verdict, dict[str, float]]:
    """Read the books and check the history of all users against them; return the verdict and its figures."""
    folder = Path(plan.folder)
    with Recorder(folder / "books.jsonl") as recorder:
        await record_books(client, recorder, plan.prefix)
    history = load_folder(folder)
    verdict = check(history, _CHECKS)
    return verdict, {"cut_short": float((folder / "full").exists()), **_figures(plan, history, verdict, limit)}


def _figures(plan: Plan, history: History, verdict: Verdict, limit: Limit) -> dict[str, float]:
    sent = list(history.by_key.values())
    by_users = [operation for operation in history.operations if operation.process != "prepare"]
    latencies = _latencies(by_users)
    figures = {
        "lies": float(len(verdict.violations)),
        "unknown": float(sum(not _is_known(operations) for operations in sent)),
        "unjudged": float(sum(not verdict.judged[name] for name in SCENARIOS[plan.scenario].must_judge.split())),
        **{name: round(quantile(latencies, share), 1) for name, share in PERCENTILES.items()},
    }
    return figures | accuracy(limit, by_users) | _drift(by_users)


def _is_known(operations: list[Operation]) -> bool:
    # The key has a final answer, or each answer said that nothing was done.
    return any(operation.bound for operation in operations) or all(o.outcome == FAIL for o in operations)


def _latencies(operations: Iterable[Operation]) -> list[float]:
    """Return the milliseconds of all answers but those refused by a limit."""
    return sorted(1e3 * (o.ended - o.invoked) for o in operations if o.status not in (0, 429))


def _drift(sent: list[Operation]) -> dict[str, float]:
    if not sent:
        return {}
    first, last = min(o.invoked for o in sent), max(o.invoked for o in sent)
    third = (last - first) / 3
    early = quantile(_latencies(o for o in sent if o.invoked < first + third), 0.95)
    late = quantile(_latencies(o for o in sent if o.invoked >= last - third), 0.95)
    return {"drift": late / early} if early else {}


async def ask_limit(client: AsyncTallystick) -> Limit:
    policy = (await client.limits()).policies[0]
    return Limit(policy.quota, policy.window_seconds, policy.burst)


def accuracy(limit: Limit, sent: list[Operation]) -> dict[str, float]:
    """
    Return how exactly a limit was kept against requests that used it up; empty if there are no answers.

    Tokens are taken between sending and answer. So tokens came at most from the first sending to the last answer, and
    requests were made at least from the first sending to the last sending.
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


async def probe(client: Client, limit: Limit) -> dict[str, float]:
    """
    Use up the tokens, wait as told, and return the share of waits after which a request passed; nobody else may send.

    A 429 says when the next token comes. Return nothing if so few connections cannot use up the tokens.
    """
    latest = min(math.ceil(1 / limit.rate), WAIT_SECONDS_MAX)
    true = 0
    for _ in range(PROBES):
        deadline = time.monotonic() + PROBE_SECONDS_MAX
        waits: list[float] = []
        while not waits:
            if time.monotonic() > deadline:
                return {}
            answers = await asyncio.gather(*(client.ask("GET", _PATH) for _ in range(PROBED_AT_ONCE)))
            waits = [answer.retry_after for answer in answers if answer.status == 429]
        if 1 <= max(waits) <= latest:
            await asyncio.sleep(max(waits))
            true += (await client.ask("GET", _PATH)).status == 200
    return {"retry_after_true": true / PROBES}
