"""What a run shows: the checks of its history, and those of reads that may be too old, look-ups and 500s."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from loadtests.chaos.faults import AWAY, BACK, KILLED_AFTER_COMMIT, KILLED_WHILE_SENDING, KINDS
from loadtests.chaos.nemesis import BOUNDED_STARTED, BOUNDED_STOPPED, Nemesis
from loadtests.chaos.rig import POSTGRES, REDIS
from loadtests.history.checks import by_key, check, check_balances_read, check_versions_read
from loadtests.history.holds import check_accounts_read
from loadtests.history.model import History, Operation, load_folder
from loadtests.history.recorder import FAIL, OK, UNKNOWN
from loadtests.history.verdict import CHECKS, Verdict

# A snapshot lives 10 s, from when the lease was taken under which it was read.
BOUND_SECONDS = 10.0
# What a busy machine adds: timers of Redis and of the service are late.
LATE_SECONDS = 1.0
BOUNDED_READ = "read that may be too old"
# Those of the history and those of this module.
ALL_CHECKS = {
    **CHECKS,
    "R": f"a read that may be too old is by {BOUND_SECONDS:.0f} s at most, shows what was true, no hold that is due",
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
    KILLED_AFTER_COMMIT,
    "refused for want of funds",
    "key refused for another request",
    "atomic set posted",
    "atomic set refused",
    "hold captured",
    "hold voided",
    "capture moved back",
    "hold expired, as the service itself posted",
    "capture refused for a hold that is not open",
    "capture or reversal refused for too much",
)
# Seen in most runs; whether they are is a matter of milliseconds.
AT_TIMES = ("lost answer: had been refused", KILLED_WHILE_SENDING)


class Judged(NamedTuple):
    """What was found, how many operations there were, and what was seen how often."""

    verdict: Verdict
    operations: int
    seen: Counter[str]

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
        yield "seen"
        extra = sorted(self.seen.keys() - {*SOMETIMES, *AT_TIMES})
        yield from (f"  {self.seen[name]:>9,}  {name}" for name in (*SOMETIMES, *AT_TIMES, *extra))
        yield "checks"
        yield from self.verdict.lines(ALL_CHECKS)
        yield from (f"  violation: {what}" for what in others)


def judge(folder: Path) -> Judged:
    """Make all checks of a run's history and books."""
    history = load_folder(folder)
    set_apart(history)
    verdict = check(history)
    check_bounded(history, verdict)
    check_errors(history, verdict)
    return Judged(verdict, len(history.operations), seen_in(history))


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
        seen["refused for want of funds"] += status == 409 and bound and "insufficient_funds" in operation.response
        seen["key refused for another request"] += status == 422
        if bound and operation.parent:
            _see_child(operation, seen)
        sets[operation.path].add(status)
    for path, statuses in sets.items():
        seen["atomic set posted"] += " atomic " in path and 201 in statuses
        seen["atomic set refused"] += " atomic " in path and 409 in statuses
    for operations in by_key(history).values():
        _see_key(operations, seen)
    seen["hold expired, as the service itself posted"] = sum(row.kind == "expiry" for row in history.rows)
    return seen


def _see_child(operation: Operation, seen: Counter[str]) -> None:
    """Count what became of a capture, void or reversal."""
    if operation.outcome == OK:
        done = {"capture": "hold captured", "void": "hold voided", "reversal": "capture moved back"}[operation.kind]
        seen[done] += not operation.replayed
    seen["capture refused for a hold that is not open"] += "hold_not_open" in operation.response
    seen["capture or reversal refused for too much"] += "_exceeds_" in operation.response


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
    check_accounts_read(history, verdict, "R", BOUNDED_READ, too_old=True)


def check_errors(history: History, verdict: Verdict) -> None:
    """E. Judged of every answer."""
    for operation in history.operations:
        verdict.judged["E"] += operation.status != 0
        if operation.status == 500:
            verdict.flag("E", f"{operation.path} {operation.key}: {operation.response}")
