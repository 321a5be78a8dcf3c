"""What a run shows: the checks of its history, and those of reads that may be too old, look-ups and 500s."""

import bisect
import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from loadtests.chaos.nemesis import BOUNDED_STARTED, BOUNDED_STOPPED
from loadtests.history.checks import check
from loadtests.history.model import History, Operation, load
from loadtests.history.reads import Newest
from loadtests.history.recorder import FAIL, NOT_NOW, OK
from loadtests.history.verdict import CHECKS, Verdict

# A snapshot lives 10 s, from when the lease was taken under which it was read.
BOUND_SECONDS = 10.0
# What a busy machine adds: timers of Redis and of the service are late.
LATE_SECONDS = 1.0
BOUNDED_READ = "read that may be too old"
# Checks of this module, beside those of the history.
OWN_CHECKS = {
    "R": f"a read that may be too old is behind by no more than {BOUND_SECONDS:.0f} s, and what it shows was true",
    "K": "a look-up by key says what became of it",
    "E": "no request fails for a reason that nobody has foreseen (500)",
}
LOOK_UP = "look-up"


class Judged(NamedTuple):
    """What was found, and the operations by what was done and what came of it."""

    verdict: Verdict
    operations: dict[str, Counter[str]]
    total: int


def judge(files: list[Path]) -> Judged:
    """
    Make all checks of a run's files.

    Raises:
        HistoryError: A file is damaged.
    """
    history = load(files)
    operations: dict[str, Counter[str]] = defaultdict(Counter)
    for operation in history.operations:
        operations[operation.operation][_came_of(operation)] += 1
    set_apart(history)
    verdict = check(history)
    check_bounded(history, verdict)
    check_look_ups(history, verdict)
    check_errors(history, verdict)
    return Judged(verdict, operations, len(history.operations))


def _came_of(operation: Operation) -> str:
    if operation.outcome == OK:
        return "replayed" if operation.replayed else "ok"
    if operation.outcome == FAIL:
        return "not now" if operation.status in NOT_NOW else "refused"
    return "unknown" if operation.status else "no answer"


def set_apart(history: History) -> None:
    """Give reads that may be too old a name of their own, so that the strict checks of reads leave them alone."""
    starts = sorted(mark.at for mark in history.marks if mark.name == BOUNDED_STARTED)
    stops = sorted(mark.at for mark in history.marks if mark.name == BOUNDED_STOPPED)
    # A run that was interrupted may have begun what it has not ended.
    windows = [
        (start, next((stop for stop in stops if stop > start), math.inf) + BOUND_SECONDS + LATE_SECONDS)
        for start in starts
    ]
    for operation in history.operations:
        if operation.operation == "read" and any(
            operation.ended > start and operation.invoked < until for start, until in windows
        ):
            operation.operation = BOUNDED_READ


def check_bounded(history: History, verdict: Verdict) -> None:
    """R. Judged of reads that were set apart: they show what had been acknowledged some seconds before."""
    newest: dict[tuple[str, str], Newest] = defaultdict(Newest)
    for operation in history.operations:
        if operation.outcome == OK and operation.operation == "transfer":
            for shown in operation.shown:
                newest[operation.ledger, shown.account].add(operation.ended, shown.version)
    balances = {(entry.ledger, entry.account, entry.version): entry.balance for entry in history.entries}
    for operation in history.operations:
        if operation.operation != BOUNDED_READ or operation.outcome != OK or not operation.response:
            continue
        # Named otherwise after it was read, so what it showed is there.
        for shown in operation.shown:
            since = operation.invoked - BOUND_SECONDS - LATE_SECONDS
            due = newest[operation.ledger, shown.account].before(since)
            verdict.judged["R"] += due > 0
            who = f"{operation.process} was shown {shown.account} at version {shown.version}"
            if shown.version < due:
                verdict.flag("R", f"{who} more than {BOUND_SECONDS:.0f} s after {due} had been told")
            booked = balances.get((operation.ledger, shown.account, shown.version))
            if booked is not None and booked != shown.balance:
                verdict.flag("R", f"{who} with {shown.balance}; it had {booked} then")


def check_look_ups(history: History, verdict: Verdict) -> None:
    """K. Judged of look-ups by key that were answered."""
    booked = {(entry.ledger, entry.key): entry.transfer_id for entry in history.entries}
    told: dict[tuple[str, str], list[float]] = defaultdict(list)
    for operation in history.operations:
        if operation.operation == "transfer" and operation.outcome == OK:
            told[operation.ledger, operation.key].append(operation.ended)
    for ends in told.values():
        ends.sort()
    for operation in history.operations:
        if operation.operation != LOOK_UP or operation.status not in (200, 404):
            continue
        verdict.judged["K"] += 1
        name = operation.ledger, operation.key
        if operation.status == 404:
            if bisect.bisect_left(told[name], operation.invoked):
                verdict.flag("K", f"{operation.key} was not found by a look-up after it had been acknowledged")
            continue
        said = json.loads(operation.response)
        if said.get("state") == "posted" and said.get("id") != booked.get(name):
            verdict.flag("K", f"{operation.key} is {said.get('id')} by a look-up and {booked.get(name)} in the books")
        elif said.get("state") != "posted" and name in booked:
            verdict.flag("K", f"{operation.key} is {said.get('state')} by a look-up and in the books")


def check_errors(history: History, verdict: Verdict) -> None:
    """E. Judged of every answer."""
    for operation in history.operations:
        verdict.judged["E"] += operation.status != 0
        if operation.status == 500:
            verdict.flag("E", f"{operation.path} {operation.key}: {operation.response}")


def all_checks() -> dict[str, str]:
    """Return what each check asserts."""
    return {**CHECKS, **OWN_CHECKS}
