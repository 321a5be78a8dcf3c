"""What a run shows: the checks of its history, and those of reads that may be too old, look-ups and 500s."""

import bisect
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from loadtests.chaos.faults import AWAY, BACK, KINDS
from loadtests.chaos.nemesis import BOUNDED_STARTED, BOUNDED_STOPPED, Nemesis
from loadtests.chaos.rig import POSTGRES, REDIS
from loadtests.history.checks import check
from loadtests.history.keys import by_key
from loadtests.history.model import History, Operation, load
from loadtests.history.reads import check_balances_read, check_versions_read
from loadtests.history.recorder import FAIL, NOT_NOW, OK, UNKNOWN
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
    """What was found, the operations by what was done and what came of it, and what was seen how often."""

    verdict: Verdict
    operations: dict[str, Counter[str]]
    seen: Counter[str]

    @property
    def total(self) -> int:
        """All operations."""
        return sum(outcomes.total() for outcomes in self.operations.values())

    def missing(self, seconds: float) -> list[str]:
        """Return what a run of that length had to see and has not seen."""
        is_long = seconds >= LONG_SECONDS
        checks = [name for name in ALL_CHECKS if is_long or name not in LONG_ONLY]
        never = [f"nothing for check {name} to judge" for name in checks if not self.verdict.judged[name]]
        return never + ([f"never: {name}" for name in SOMETIMES if not self.seen[name]] if is_long else [])

    def lines(self, nemesis: Nemesis, others: list[str]) -> Iterable[str]:
        """Tell what was done and found; *others* are violations that the history does not hold."""
        yield "faults"
        yield from (f"  {nemesis.done[kind]:>9,}  {kind}" for kind in KINDS)
        if nemesis.skipped:
            yield f"  {nemesis.skipped:>9,}  steps of the plan had no time left"
        yield f"operations{'':<14}" + "".join(f"{name:>11}" for name in OUTCOMES)
        for operation, outcomes in sorted(self.operations.items()):
            yield f"  {operation:<22}" + "".join(f"{outcomes[name]:>11,}" for name in OUTCOMES)
        yield "seen"
        extra = sorted(self.seen.keys() - {*SOMETIMES, *AT_TIMES})
        yield from (f"  {self.seen[name]:>9,}  {name}" for name in (*SOMETIMES, *AT_TIMES, *extra))
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
    return Judged(verdict, operations, seen_in(history))


def _came_of(operation: Operation) -> str:
    if operation.outcome == OK:
        return "replayed" if operation.replayed else "ok"
    if operation.outcome == FAIL:
        return "not now" if operation.status in NOT_NOW else "refused"
    return "unknown" if operation.status else "no answer"


def _windows(history: History, starts: str, stops: str) -> list[tuple[float, float]]:
    """Return the times between two marks; a run that was interrupted may have begun what it has not ended."""
    started, stopped = (sorted(mark.at for mark in history.marks if mark.name == name) for name in (starts, stops))
    return [(start, next((stop for stop in stopped if stop > start), math.inf)) for start in started]


def seen_in(history: History) -> Counter[str]:
    """Count what a correct service shows at times."""
    seen: Counter[str] = Counter()
    away = {part: _windows(history, f"{part} {AWAY}", f"{part} {BACK}") for part in (POSTGRES, REDIS)}
    sets: dict[str, set[int]] = defaultdict(set)
    for operation in history.operations:
        no_postgres, no_redis = (
            any(start < operation.invoked and operation.ended < stop for start, stop in away[part])
            for part in (POSTGRES, REDIS)
        )
        status, bound = operation.status, operation.bound
        unavailable = status == 503 and operation.operation == "transfer"
        seen["answer lost"] += status == 0
        seen["account read while Redis was away"] += no_redis and status == 200 and bool(operation.shown) and not bound
        seen["write refused while PostgreSQL was away"] += no_postgres and unavailable and operation.outcome == FAIL
        seen["service did not know the outcome and said so"] += unavailable and operation.outcome == UNKNOWN
        seen["replayed while Redis was away" if no_redis else "replayed"] += bound and operation.replayed
        seen["refused for want of funds"] += bound and status == 409
        seen["key refused for another request"] += status == 422
        sets[operation.path].add(status)
    for path, statuses in sets.items():
        seen["atomic set posted"] += " atomic " in path and 201 in statuses
        seen["atomic set refused"] += " atomic " in path and 409 in statuses
    for operations in by_key(history).values():
        _see_key(operations, seen)
    return seen


def _see_key(operations: list[Operation], seen: Counter[str]) -> None:
    """Count what the sendings of one request tell together."""
    answered = sorted((o for o in operations if o.bound), key=lambda o: o.ended)
    overlap = any(later.invoked < earlier.ended for earlier, later in itertools.pairwise(answered))
    seen["one request answered several times at once"] += overlap
    if answered and any(o.outcome == UNKNOWN and o.invoked < answered[0].invoked for o in operations):
        first = answered[0]
        if first.outcome == OK:
            seen[f"lost answer: had {'' if first.replayed else 'not '}been applied"] += 1
        else:
            seen["lost answer: had been refused"] += first.replayed


def set_apart(history: History) -> None:
    """Give reads that may be too old a name of their own, so that the strict checks of reads leave them alone."""
    windows = _windows(history, BOUNDED_STARTED, BOUNDED_STOPPED)
    late = BOUND_SECONDS + LATE_SECONDS
    for operation in history.operations:
        if operation.operation == "read" and any(
            operation.ended > start and operation.invoked < stop + late for start, stop in windows
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
