"""Judges a run: the checks of its history, and those of reads that may be stale, of look-ups and of 500s."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from loadtests.chaos.faults import AWAY, BACK, KINDS
from loadtests.chaos.nemesis import BOUNDED_STARTED, BOUNDED_STOPPED
from loadtests.chaos.rig import POSTGRES, REDIS
from loadtests.history.checks import CHECKS, check, check_balances_read, check_versions_read
from loadtests.history.feed import FEED_CHECKS, READERS
from loadtests.history.holds import check_accounts_read
from loadtests.history.model import Check, History, Operation, Verdict, load_folder
from loadtests.history.recorder import FAIL, OK, UNKNOWN

# A snapshot lives 10 s, counted from when its lease was taken.
BOUND_SECONDS = 10.0
# Allowance for a busy machine, where timers of Redis and of the service are late.
LATE_SECONDS = 1.0
BOUNDED_READ = "read that may be too old"
READS = ("read", BOUNDED_READ)
# Checks for which a short run may have nothing to judge.
LONG_ONLY = {"C7", "C8", "R", "K"}
# A run of at least this many seconds must see everything in SOMETIMES, and must give every check something to judge.
LONG_SECONDS = 120.0


def _unavailable(operation: Operation, outcome: str) -> bool:
    return operation.status == 503 and operation.operation == "transfer" and operation.outcome == outcome


def _followed(operation: Operation, kind: str) -> bool:
    """Tell whether it is the final answer to a capture, void or reversal that was posted."""
    return operation.bound and operation.status == 201 and bool(operation.parent) and operation.kind == kind


# What a correct service shows under enough faults: a run that never saw one of these has not tested it. Those in TOLD
# are recognized by a single operation and the parts that both servers were cut off from during it.
TOLD: dict[str, Callable[[Operation, set[str]], bool]] = {
    "answer lost": lambda o, _: o.status == 0,
    "replayed": lambda o, away: o.bound and o.replayed and REDIS not in away,
    "replayed while Redis was away": lambda o, away: o.bound and o.replayed and REDIS in away,
    "account read while Redis was away": lambda o, away: REDIS in away and o.status == 200 and o.operation in READS,
    "write refused while PostgreSQL was away": lambda o, away: POSTGRES in away and _unavailable(o, FAIL),
    "service did not know the outcome and said so": lambda o, _: _unavailable(o, UNKNOWN),
    "refused for want of funds": lambda o, _: o.bound and "insufficient_funds" in o.response,
    "key refused for another request": lambda o, _: o.status == 422,
    "atomic set posted": lambda o, _: " atomic " in o.path and o.status == 201,
    "atomic set refused": lambda o, _: " atomic " in o.path and o.status == 409,
    "hold captured": lambda o, _: _followed(o, "capture"),
    "hold voided": lambda o, _: _followed(o, "void"),
    "capture moved back": lambda o, _: _followed(o, "reversal"),
    "capture refused for a hold that is not open": lambda o, _: o.bound and "hold_not_open" in o.response,
    "capture or reversal refused for too much": lambda o, _: o.bound and "_exceeds_" in o.response,
}
SOMETIMES = (
    *TOLD,
    "lost answer: had been applied",
    "lost answer: had not been applied",
    "one request answered several times at once",
    "hold expired, as the service itself posted",
    "account read out of Redis",
    "server killed after a commit, at posting.committed",
    "relay killed after it commits, at relay.committed",
)
# Only seen where there are brokers.
PUBLISHER_KILLED = "publisher killed after a confirmation, at sinks.confirmed"


class Judged(NamedTuple):
    """
    The findings, the number of operations, and how often each thing was seen.

    `others` are violations that are not in the history.
    """

    verdict: Verdict
    operations: int
    seen: Counter[str]
    others: list[str]

    def missing(self, seconds: float, brokers: Collection[str]) -> list[str]:
        """Return what a run of that length with these brokers should have seen and has not."""
        is_long = seconds >= LONG_SECONDS
        checks = [n for n in ALL_CHECKS if (is_long or n not in LONG_ONLY) and (brokers or n != "F4")]
        never = [f"nothing for check {name} to judge" for name in checks if not self.verdict.judged[name]]
        due = [f"event told by {reader}" for reader in (*READERS, *brokers)]
        if is_long:
            due += [*SOMETIMES, *([PUBLISHER_KILLED] if brokers else [])]
        return never + [f"never: {name}" for name in due if not self.seen[name]]

    def lines(self, done: Counter[str]) -> Iterable[str]:
        """Yield lines that say which faults were injected and what was found."""
        yield "faults"
        yield from (f"  {done[kind]:>9,}  {kind}" for kind in KINDS)
        yield "seen"
        extra = sorted(self.seen.keys() - {*SOMETIMES})
        yield from (f"  {self.seen[name]:>9,}  {name}" for name in (*SOMETIMES, *extra))
        yield "checks"
        yield from self.verdict.lines(ALL_CHECKS)
        yield from (f"  violation: {what}" for what in self.others)


def judge(folder: Path, others: list[str]) -> Judged:
    history = load_folder(folder)
    set_apart(history)
    verdict = check(history, ALL_CHECKS)
    return Judged(verdict, len(history.operations), seen_in(history), others)


def _windows(history: History, starts: str, stops: str) -> list[tuple[float, float]]:
    """Return the times between two marks; if a run was interrupted, the last one may have no end."""
    started, stopped = (sorted(mark.at for mark in history.marks if mark.name == name) for name in (starts, stops))
    return [(start, next((stop for stop in stopped if stop > start), math.inf)) for start in started]


def seen_in(history: History) -> Counter[str]:
    seen: Counter[str] = Counter()
    away = {part: _windows(history, f"{part} {AWAY}", f"{part} {BACK}") for part in (POSTGRES, REDIS)}
    for operation in history.operations:
        parts = {
            part
            for part, windows in away.items()
            if any(start < operation.invoked and operation.ended < stop for start, stop in windows)
        }
        for name, is_told in TOLD.items():
            seen[name] += is_told(operation, parts)
    for operations in history.by_key.values():
        _see_key(operations, seen)
    seen.update(f"event told by {told.reader}" for told in history.told)
    seen["hold expired, as the service itself posted"] = sum(row.kind == "expiry" for row in history.rows)
    return seen


def _see_key(operations: list[Operation], seen: Counter[str]) -> None:
    """Count what is seen only when all sendings of one request are compared."""
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
    """Rename reads that may be stale, so that the strict checks of reads skip them."""
    windows = _windows(history, BOUNDED_STARTED, BOUNDED_STOPPED)
    late = BOUND_SECONDS + LATE_SECONDS
    for operation in history.operations:
        if operation.operation == "read" and any(
            operation.ended > start and operation.invoked < stop + late for start, stop in windows
        ):
            operation.operation = BOUNDED_READ


def check_bounded(history: History, verdict: Verdict) -> None:
    """R. Judges the reads that were set apart: they show what had been acknowledged some seconds before."""
    seconds = BOUND_SECONDS + LATE_SECONDS
    check_versions_read(history, verdict, "R", read=BOUNDED_READ, seconds=seconds)
    check_balances_read(history, verdict, "R", BOUNDED_READ)
    check_accounts_read(history, verdict, "R", BOUNDED_READ, too_old=True)


def check_errors(history: History, verdict: Verdict) -> None:
    """E. Judges every answer."""
    for operation in history.operations:
        verdict.judged["E"] += operation.status != 0
        if operation.status == 500:
            verdict.flag("E", f"{operation.path} {operation.key}: {operation.response}")


# The checks of the history and those of this module.
ALL_CHECKS = {
    **CHECKS,
    **FEED_CHECKS,
    "R": Check("a read that may be too old is so within its bound, and shows no hold that is due", check_bounded),
    "E": Check("no request fails for a reason that nobody has foreseen (500)", check_errors),
}
