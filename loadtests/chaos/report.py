"""What a run prints in the end, and whether it is good."""

from collections import Counter
from collections.abc import Iterable

from loadtests.chaos.judge import Judged, all_checks
from loadtests.chaos.nemesis import Nemesis, kinds_done

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
# Checks that a short run may leave without anything to judge.
_LONG_ONLY = {"C7", "C8", "R", "K"}


def missing(judged: Judged, counts: Counter[str], seconds: float) -> list[str]:
    """Return what a run of that length had to see and has not seen."""
    is_long = seconds >= LONG_SECONDS
    checks = [name for name in all_checks() if is_long or name not in _LONG_ONLY]
    never = [f"nothing for check {name} to judge" for name in checks if not judged.verdict.judged[name]]
    return never + ([f"never: {name}" for name in SOMETIMES if not counts[name]] if is_long else [])


def lines(judged: Judged, counts: Counter[str], nemesis: Nemesis, others: list[str]) -> Iterable[str]:
    """Tell what was done and found; *others* are violations that the history does not hold."""
    yield "faults"
    yield from (f"  {count:>9,}  {kind}" for kind, count in kinds_done(nemesis))
    if nemesis.skipped:
        yield f"  {nemesis.skipped:>9,}  steps of the plan had no time left"
    yield f"operations{'':<14}" + "".join(f"{name:>11}" for name in OUTCOMES)
    for operation, outcomes in sorted(judged.operations.items()):
        yield f"  {operation:<22}" + "".join(f"{outcomes[name]:>11,}" for name in OUTCOMES)
    yield "seen"
    extra = sorted(counts.keys() - {*SOMETIMES, *AT_TIMES})
    yield from (f"  {counts[name]:>9,}  {name}" for name in (*SOMETIMES, *AT_TIMES, *extra))
    yield "checks"
    yield from judged.verdict.lines(all_checks())
    yield from (f"  violation: {what}" for what in others)
