"""What a run shows: the checks of its history, and those of reads that may be too old, look-ups and 500s."""

import bisect
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from loadtests.chaos.faults import KINDS
from loadtests.chaos.nemesis import BOUNDED_STARTED, BOUNDED_STOPPED, Nemesis
from loadtests.history.checks import check
from loadtests.history.model import History, Operation, load
from loadtests.history.reads import check_balances_read, check_versions_read
from loadtests.history.recorder import FAIL, NOT_NOW, OK
from loadtests.history.verdict import CHECKS, Verdict

# A snapshot lives 10 s, from when the lease was taken under which it was read.
BOUND_SECONDS = 10.0
# What a busy machine adds: timers of Redis and of the service are late.
LATE_SECONDS = 1.0
BOUNDED_READ = "read that may be too old"
LOOK_UP = "look-up"
# Those of the history and those of this module.
ALL_CHECKS = {
    **CHECKS,
    "R": f"a read that may be too old is behind by no more than {BOUND_SECONDS:.0f} s, and what it shows was true",
    "K": "a look-up by key says what became of it",
    "E": "no request fails for a reason that nobody has foreseen (500)",
}
# Checks that a short run may leave without anything to judge.
LONG_ONLY = {"C7", "C8", "R", "K"}
# A run of this many seconds has to have seen everything in SOMETIMES, and every check has to have judged something.
LONG_SECONDS = 120.0
# What a correct service shows under enough faults; a run that never saw one of these has proved nothing of it.
SOMETIMES = (
    "answer lost",
    "lost answer: had been applied",
    "lost answer: had not been applied",
    "replayed",
    "replayed while Redis was away",
    "account read out of Redis",
    "account read while Redis was away",
    "write refused while PostgreSQL was away",
    "service did not know the outcome and said so",
    "one request answered several times at once",
    "server killed between commit and answer",
    "refused for want of funds",
    "key refused for another request",
    "atomic set posted",
    "atomic set refused",
)
# Seen in most runs; whether they are is a matter of milliseconds.
AT_TIMES = ("lost answer: had been refused", "server killed while a batch was on its way")
OUTCOMES = ("ok", "replayed", "refused", "not now", "unknown", "no answer")


class Judged(NamedTuple):
    """What was found, and the operations by what was done and what came of it."""

    verdict: Verdict
    operations: dict[str, Counter[str]]

    @property
    def total(self) -> int:
        """All operations."""
        return sum(outcomes.total() for outcomes in self.operations.values())

    def missing(self, counts: Counter[str], seconds: float) -> list[str]:
        """Return what a run of that length had to see and has not seen."""
        is_long = seconds >= LONG_SECONDS
        checks = [name for name in ALL_CHECKS if is_long or name not in LONG_ONLY]
        never = [f"nothing for check {name} to judge" for name in checks if not self.verdict.judged[name]]
        return never + ([f"never: {name}" for name in SOMETIMES if not counts[name]] if is_long else [])

    def lines(self, counts: Counter[str], nemesis: Nemesis, others: list[str]) -> Iterable[str]:
        """Tell what was done and found; *others* are violations that the history does not hold."""
        yield "faults"
        yield from (f"  {nemesis.done[kind]:>9,}  {kind}" for kind in KINDS)
        if nemesis.skipped:
            yield f"  {nemesis.skipped:>9,}  steps of the plan had no time left"
        yield f"operations{'':<14}" + "".join(f"{name:>11}" for name in OUTCOMES)
        for operation, outcomes in sorted(self.operations.items()):
            yield f"  {operation:<22}" + "".join(f"{outcomes[name]:>11,}" for name in OUTCOMES)
        yield "seen"
        extra = sorted(counts.keys() - {*SOMETIMES, *AT_TIMES})
        yield from (f"  {counts[name]:>9,}  {name}" for name in (*SOMETIMES, *AT_TIMES, *extra))
        yield "checks"
        yield from self.verdict.lines(ALL_CHECKS)
        yield from (f"  violation: {what}" for what in others)


def judge(folder: Path) -> Judged:
    """
    Make all checks of a run's history and books.

    Raises:
        HistoryError: A file is damaged.
    """
    history = load(sorted(folder.glob("*.jsonl")))
    operations: dict[str, Counter[str]] = defaultdict(Counter)
    for operation in history.operations:
        operations[operation.operation][_came_of(operation)] += 1
    set_apart(history)
    verdict = check(history)
    check_bounded(history, verdict)
    check_look_ups(history, verdict)
    check_errors(history, verdict)
    return Judged(verdict, operations)


def _came_of(operation: Operation) -> str:
    if operation.outcome == OK:
        return "replayed" if operation.replayed else "ok"
    if operation.outcome == FAIL:
        return "not now" if operation.status in NOT_NOW else "refused"
    return "unknown" if operation.status else "no answer"


def set_apart(history: History) -> None:
    """Give reads that may be too old a name of their own, so that the strict checks of reads leave them alone."""
    starts, stops = (
        sorted(mark.at for mark in history.marks if mark.name == name) for name in (BOUNDED_STARTED, BOUNDED_STOPPED)
    )
    # A run that was interrupted may have begun what it has not ended.
    ends = [next((stop for stop in stops if stop > start), math.inf) + BOUND_SECONDS + LATE_SECONDS for start in starts]
    windows = list(zip(starts, ends, strict=True))
    for operation in history.operations:
        if operation.operation == "read" and any(
            operation.ended > start and operation.invoked < until for start, until in windows
        ):
            operation.operation = BOUNDED_READ


def check_bounded(history: History, verdict: Verdict) -> None:
    """R. Judged of reads that were set apart: they show what had been acknowledged some seconds before."""
    seconds = BOUND_SECONDS + LATE_SECONDS
    check_versions_read(history, verdict, "R", lambda _: None, read=BOUNDED_READ, seconds=seconds)
    check_balances_read(history, verdict, "R", BOUNDED_READ)


def check_look_ups(history: History, verdict: Verdict) -> None:
    """K. Judged of look-ups by key that were answered."""
    booked = {(entry.ledger, entry.key): entry.transfer_id for entry in history.entries}
    told: dict[tuple[str, str], list[float]] = defaultdict(list)
    for operation in history.transfers():
        if operation.outcome == OK:
            bisect.insort(told[operation.ledger, operation.key], operation.ended)
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
        posted = said.get("id") if said.get("state") == "posted" else None
        if posted != booked.get(name):
            shown = f"{said.get('id')}, {said.get('state')}"
            verdict.flag("K", f"{operation.key} is {shown} by a look-up and {booked.get(name)} in the books")


def check_errors(history: History, verdict: Verdict) -> None:
    """E. Judged of every answer."""
    for operation in history.operations:
        verdict.judged["E"] += operation.status != 0
        if operation.status == 500:
            verdict.flag("E", f"{operation.path} {operation.key}: {operation.response}")
