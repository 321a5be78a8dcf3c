"""What every virtual user was promised, held against the books of the ledger after the run."""

import math
import random
from pathlib import Path
from urllib.parse import quote

from loadtests.books import record_books
from loadtests.client import Client
from loadtests.figures import quantile
from loadtests.history.checks import check
from loadtests.history.keys import by_key
from loadtests.history.model import History, Operation, load
from loadtests.history.recorder import OK, Recorder
from loadtests.history.verdict import CHECKS, Verdict
from loadtests.kit.catalogue import SCENARIOS
from loadtests.kit.limiter import accuracy
from loadtests.kit.plan import Plan

# Keys that are looked up one by one, beside the statements, which hold them all.
LOOK_UPS_MAX = 200
# All sendings of each key.
Sent = dict[str, list[Operation]]
# The checks that make sense without faults.
_CHECKS = [name for name in CHECKS if name != "C8"]


async def verify(plan: Plan, client: Client) -> tuple[Verdict, dict[str, float]]:
    """
    Read the books, check the history of all users against them, and return what was found and the figures of it.

    Raises:
        ClientError: The books could not be read.
        HistoryError: A history file is damaged.
    """
    folder = Path(plan.folder)
    with Recorder(folder / "books.jsonl") as recorder:
        await record_books(client, recorder, plan.prefix)
    history = _load(folder)
    verdict = check(history, _CHECKS)
    sent = {key: operations for (_, key), operations in by_key(history).items()}
    await look_up(client, plan.seed, sent, verdict)
    figures = _figures(plan, history, sent, verdict)
    figures["cut_short"] = float((folder / "full").exists())
    return verdict, figures


def _load(folder: Path) -> History:
    return load(sorted(folder.glob("*.jsonl")))


async def look_up(client: Client, seed: int, sent: Sent, verdict: Verdict) -> None:
    """
    Ask for some keys what became of them, as a caller does who has lost an answer; note lies under C2.

    Raises:
        ClientError: There was no answer.
    """
    for key in random.Random(seed).sample(sorted(sent), min(LOOK_UPS_MAX, len(sent))):
        told = {operation.transfer_id for operation in sent[key] if operation.outcome == OK}
        reply = await client.until_answered("GET", f"/v1/idempotency-keys/{quote(key, safe='')}")
        found = reply.json if reply.status == 200 else {}
        if told and (found.get("id") not in told or found.get("state") != "posted"):
            verdict.flag("C2", f"{key} was acknowledged as {sorted(told)}; asked for, it is {reply.body!r}")
        elif not told and any(operation.bound for operation in sent[key]) and found.get("state") == "posted":
            verdict.flag("C2", f"{key} was refused; asked for, it is posted as {found.get('id')}")
        verdict.judged["C2"] += 1


def _figures(plan: Plan, history: History, sent: Sent, verdict: Verdict) -> dict[str, float]:
    different = len({violation.what for violation in verdict.violations if violation.check == "C4"})
    figures = {
        "lies": float(len(verdict.violations)),
        "unknown": float(sum(not _is_known(operations) for operations in sent.values())),
        "unjudged": float(sum(not verdict.judged[name] for name in SCENARIOS[plan.scenario].must_judge.split())),
    }
    if verdict.judged["C4"]:
        figures["replays_equal"] = 1 - different / verdict.judged["C4"]
    if plan.scenario == "retry_storm":
        figures.update(_storms(sent))
    if plan.scenario == "flood" and plan.limit is not None:
        figures.update(accuracy(plan.limit, [o for o in history.transfers() if o.process != "prepare"]))
    if plan.shape == "soak":
        figures.update(_drift(history))
    return figures


def _is_known(operations: list[Operation]) -> bool:
    """Tell whether the caller knows in the end: answered for ever, or told every time that nothing was done."""
    return any(operation.bound for operation in operations) or all(o.outcome == "fail" for o in operations)


def _storms(sent: Sent) -> dict[str, float]:
    """Of the requests that were sent several times at once and answered every time."""
    storms = [operations for operations in sent.values() if len(operations) > 1 and all(o.bound for o in operations)]
    once = sum(sum(not operation.replayed for operation in operations) == 1 for operations in storms)
    return {"one_first": once / len(storms)} if storms else {}


def _drift(history: History) -> dict[str, float]:
    """Compare the latencies of the last third with those of the first."""
    timed = [o for o in history.operations if o.process != "prepare" and o.outcome == OK and not math.isinf(o.ended)]
    if not timed:
        return {}
    first, last = min(o.invoked for o in timed), max(o.invoked for o in timed)
    third = (last - first) / 3
    early = _p95([o for o in timed if o.invoked < first + third])
    late = _p95([o for o in timed if o.invoked >= last - third])
    return {"drift": late / early} if early else {}


def _p95(operations: list[Operation]) -> float:
    return quantile(sorted(operation.ended - operation.invoked for operation in operations), 0.95)
