"""In chaos, the seed decides the faults, lies are found, and an interrupted run leaves nothing behind."""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtests.chaos.__main__ import conclude
from loadtests.chaos.faults import KINDS
from loadtests.chaos.judge import (
    ALL_CHECKS,
    BOUNDED_READ,
    PUBLISHER_KILLED,
    SOMETIMES,
    Judged,
    check_bounded,
    check_errors,
    set_apart,
)
from loadtests.chaos.nemesis import MEMORY_GROWTH_MAX, grown
from loadtests.chaos.plan import Phase, plan
from loadtests.history.checks import check
from loadtests.history.feed import READERS
from loadtests.history.model import History, Verdict, load
from loadtests.history.recorder import Heard
from tests.loadtests.stories import Ledger, Story, flagged, history

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 24
SEED = "3"
# Limit for a run with its start and its checks, on a machine that is busy with other tests.
RUN_SECONDS_MAX = 170
SEEDS = range(200)


def steps(phases: list[Phase]) -> list[str]:
    """Return the steps of a plan as they are shown."""
    return [str(step) for phase in phases for step in phase.steps]


def test_the_seed_decides() -> None:
    """
    The same seed and time give the same faults in the same order and at the same times; each seed gives different ones.
    """
    plans = [tuple(steps(plan(seed, 120))) for seed in SEEDS]
    assert len(set(plans)) == len(SEEDS)
    assert tuple(steps(plan(SEEDS[7], 120))) == plans[7]


@pytest.mark.parametrize("seconds", [120.0, 600.0])
@pytest.mark.parametrize("without", [(), ("kafka",), ("kafka", "rabbitmq", "sinks")])
def test_a_run_has_what_it_needs(seconds: float, without: tuple[str, ...]) -> None:
    """For every seed, the plan has all needed faults and a swizzle, and no step outlasts its phase."""
    for seed in SEEDS[:50]:
        phases = plan(seed, seconds, without)
        kinds = {fault.kind for phase in phases for step in phase.steps for fault in step.faults}
        assert {name for name, kind in KINDS.items() if kind.needed and kind.part not in without} <= kinds
        assert not {KINDS[name].part for name in kinds} & set(without)
        assert any(len(step.faults) > 2 for phase in phases for step in phase.steps)
        assert all(step.at + step.lasts <= phase.until for phase in phases for step in phase.steps)
        assert phases[-1].until < seconds


def test_every_kind_happens() -> None:
    """Every kind of fault has a seed that plans it, and ten minutes of one seed have every kind."""
    assert {f.kind for seed in SEEDS for p in plan(seed, 120) for s in p.steps for f in s.faults} == set(KINDS)
    ten_minutes = {fault.kind for phase in plan(1, 600) for step in phase.steps for fault in step.faults}
    assert ten_minutes == set(KINDS)


def too_old(seconds_before: int, marks: tuple[str, str] | None) -> History:
    """Return a history with a read of an old version, some seconds after a newer one was answered."""
    ledger = Ledger()
    ledger.open("world", floor=None)
    ledger.open("a")
    story = Story(ledger)
    story.pay(ledger, "k1", "world", "a", 10)
    if marks:
        story.recorder.mark(marks[0])
    old = json.dumps(ledger.accounts["a"])
    story.pay(ledger, "k2", "world", "a", 10)
    story.wait(seconds_before)
    number = story.recorder.invoke("read", process="r", path="/v1/accounts/a", ledger=ledger.name)
    story.recorder.answered(number, Heard.of(200, old))
    if marks:
        story.recorder.mark(marks[1])
    return history(story.end())


MARKS = ("bounded_started", "bounded_stopped")


@pytest.mark.parametrize(
    ("seconds", "marks", "is_apart", "found"),
    [
        pytest.param(2, None, False, 0, id="no part went on that had missed something: left to the strict check"),
        pytest.param(2, MARKS, True, 0, id="within the bound"),
        pytest.param(20, MARKS, True, 1, id="past it"),
    ],
)
def test_reads_that_may_be_too_old_are_bounded(
    seconds: int, marks: tuple[str, str] | None, is_apart: bool, found: int
) -> None:
    """A read is set apart only around a fault that bounds it, and may even then be behind only by the bound."""
    told = too_old(seconds, marks)
    set_apart(told)
    assert [o.operation == BOUNDED_READ for o in told.operations if o.process == "r"] == [is_apart]
    verdict = Verdict()
    check_bounded(told, verdict)
    assert len(verdict.violations) == found


@pytest.mark.parametrize(("seconds", "found"), [(1, set()), (5, {"R"})])
def test_even_a_read_that_may_be_too_old_shows_no_hold_that_is_due(seconds: int, found: set[str]) -> None:
    """Once an answer shows that a hold's instant has passed, no read may show it as held."""
    ledger = Ledger()
    ledger.open("world", floor=None)
    ledger.open("a")
    story = Story(ledger)
    story.recorder.mark(MARKS[0])
    story.post(ledger, "k1", {"source": "world", "destination": "a", "amount": 9, "hold": True, "expires_in": 4})
    old = json.dumps(ledger.accounts["a"])
    story.wait(seconds)
    story.pay(ledger, "k2", "world", "world", 1)
    number = story.recorder.invoke("read", process="r", path="/v1/accounts/a", ledger=ledger.name)
    story.recorder.answered(number, Heard.of(200, old))
    story.recorder.mark(MARKS[1])
    told = history(story.end())
    set_apart(told)
    verdict = Verdict()
    check_bounded(told, verdict)
    assert flagged(verdict) == found


@pytest.mark.parametrize(("status", "found"), [(500, {"E"}), (503, set())])
def test_errors(status: int, found: set[str]) -> None:
    """An answer with status 500 is a violation, and one with 503 is not."""
    ledger = Ledger()
    story = Story(ledger)
    story.look_up(ledger, "k1", status, {})
    verdict = Verdict()
    check_errors(history(story.end()), verdict)
    assert flagged(verdict) == found


def test_sizes_must_be_back() -> None:
    """Memory may grow up to its limit, and the number of sessions may not grow."""
    before = {"sessions": 10, "bytes of server 1": 1_000}
    enough = int(1_000 * MEMORY_GROWTH_MAX)
    assert grown(before, {"sessions": 10, "bytes of server 1": enough}) == []
    assert grown(before, {"sessions": 11, "bytes of server 1": enough + 1}) == [
        "sessions was 10 before the first fault and is 11 in the end",
        f"bytes of server 1 was 1,000 before the first fault and is {enough + 1:,} in the end",
    ]


def test_what_was_never_seen_fails_a_long_run() -> None:
    """A long run must have seen every rare case, and every check must have had something to judge."""
    verdict = Verdict()
    verdict.judged.update(dict.fromkeys(ALL_CHECKS, 1))
    judged = Judged(verdict, 0, Counter(dict.fromkeys(SOMETIMES, 1)), [])
    judged.seen.update(f"event told by {reader}" for reader in READERS)
    assert judged.missing(120, ()) == []
    assert judged.missing(SECONDS, ["kafka"]) == ["never: event told by kafka"]
    judged.seen["event told by kafka"] = 1
    assert judged.missing(120, ["kafka"]) == [f"never: {PUBLISHER_KILLED}"]
    judged.seen["replayed while Redis was away"] = 0
    assert judged.missing(120, ()) == ["never: replayed while Redis was away"]
    assert judged.missing(SECONDS, ()) == []
    verdict.judged.update(C2=-1, F4=-1)
    assert judged.missing(SECONDS, ()) == ["nothing for check C2 to judge"]


@pytest.mark.parametrize("good", [True, False])
def test_what_a_run_concludes(tmp_path: Path, capsys: pytest.CaptureFixture[str], good: bool) -> None:
    """A good run leaves nothing; a bad one keeps its folder and says how to repeat it."""
    folder = tmp_path / "run"
    folder.mkdir()
    verdict = Verdict()
    verdict.judged.update(dict.fromkeys(ALL_CHECKS, 1))
    seen = Counter(f"event told by {reader}" for reader in READERS)
    judged = Judged(verdict, 0, seen, [] if good else ["server 1 ended by itself"])
    asked = argparse.Namespace(seed=3, seconds=SECONDS, brokers=set())
    assert conclude(asked, judged, Counter(), folder, 1.0) == good
    said = capsys.readouterr().out
    assert ("0 violations" if good else "violation: server 1 ended by itself") in said
    assert (f"again: make chaos SEED=3 DURATION={SECONDS} " in said) != good
    assert folder.exists() != good


class Started(NamedTuple):
    """A run as a process, with a folder for its temporary files, whose path is short."""

    process: asyncio.subprocess.Process
    temporary: Path

    def left_behind(self) -> list[str]:
        """Return the temporary files that are left, and the processes whose command line names one."""
        found = [str(path) for path in self.temporary.iterdir()]
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = line.read_bytes()
            except OSError:
                continue
            if str(self.temporary).encode() in text:
                found.append(text.decode(errors="replace"))
        return found


@asynccontextmanager
async def started(reports: Path) -> AsyncIterator[Started]:
    """
    Start a short run; it is ended with the body.

    It has no brokers, which would use more CPU than everything else: `.ci/run` has a run with them, to the end.
    """
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    with tempfile.TemporaryDirectory(prefix="ts-") as temporary:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.chaos", "--seconds", str(SECONDS), "--seed", SEED),
            *("--reports", reports, "--brokers", "none"),
            cwd=ROOT,
            env={**environment, "TMPDIR": temporary},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield Started(process, Path(temporary))
        finally:
            if process.returncode is None:
                process.terminate()
                await process.communicate()


@pytest.mark.timeout(RUN_SECONDS_MAX + 30)
async def test_it_ends_what_it_started(tmp_path: Path) -> None:
    """
    A run that is interrupted during a fault heals and ends everything; its history passes, and fails with a lie in it.
    """
    async with started(tmp_path) as run, asyncio.timeout(RUN_SECONDS_MAX):
        assert run.process.stdout is not None
        await run.process.stdout.readline()
        # This line is the first fault.
        await run.process.stdout.readline()
        run.process.terminate()
        said = (await run.process.stdout.read()).decode()
        assert await run.process.wait() == 130, said
        assert run.left_behind() == []
    [kept] = (tmp_path / "chaos").iterdir()
    assert {"history.jsonl", "server-1.log", "server-2.log", "databases"} <= {path.name for path in kept.iterdir()}
    assert check(load([kept / "history.jsonl"])).violations == []
    show_as_it_was(kept / "history.jsonl")
    assert "C5" in flagged(check(load([kept / "history.jsonl"])))


def show_as_it_was(path: Path) -> None:
    """Change the last read of an account to show what the first one showed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    reads = {event["op"]: event["path"] for event in events if event.get("operation") == "read"}
    answers = [n for n, event in enumerate(events) if event["event"] == "ok" and event["op"] in reads]
    first = next(n for n in answers if reads[events[n]["op"]].endswith("hot"))
    last = [n for n in answers if reads[events[n]["op"]] == reads[events[first]["op"]]][-1]
    events[last]["response"] = events[first]["response"]
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
