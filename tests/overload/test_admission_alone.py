"""Admission alone, with its own clock: every request is admitted or refused once, in time, and within the caps."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from server.http import admission
from server.http.admission import Admission

RUNNING_MAX = 4
# The most writes among these, and the most reads.
RUNNING_KIND_MAX = 3
# With up to this many waiting requests the first is admitted first; with more, the last.
IN_ORDER_MAX = 2
# Seconds that a refusal takes: a flood has to wait for its refusals, and each look allows more than one.
REFUSAL_SECONDS = admission.LOOK_SECONDS * admission.REFUSING_SHARE / 2.1
PER_LOOK = 2

SETTINGS = settings(
    max_examples=120,
    stateful_step_count=60,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
)


class Clock:
    """An event loop that runs and lets time pass only on request."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """Return the loop's time."""
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run a callback in the next turn."""
        self._soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run a callback after some seconds."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), callback))

    def turn(self) -> None:
        """Run the callbacks that are ready now, and not those that they add."""
        ready, self._soon = self._soon, []
        for callback in ready:
            callback()

    def settle(self) -> None:
        """Run until nothing is ready."""
        while self._soon:
            self.turn()

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and run each due timer at its instant."""
        end = self.now + seconds
        self.settle()
        while self._timers and self._timers[0][0] <= end:
            self.now, _, callback = heapq.heappop(self._timers)
            callback()
            self.settle()
        self.now = end


class Work:
    """The clock that measures how long refusing takes."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def refuse(self) -> None:
        """Let the time of a refusal pass."""
        self.now += self.seconds


class Asking:
    """A request, with its state and the time of its arrival."""

    def __init__(self, work: Work, *, write: bool, since: float) -> None:
        self.work = work
        self.write = write
        self.since = since
        self.state = "waiting"

    def admitted(self) -> None:
        """Note that the request got a place."""
        assert self.state == "waiting"
        self.state = "running"

    def refused(self) -> None:
        """Note that the request was refused."""
        assert self.state == "waiting"
        self.state = "refused"
        self.work.refuse()


class AdmissionMachine(RuleBasedStateMachine):
    """Requests that arrive, wait and end, in every order."""

    work: ClassVar[Work] = Work(0.0)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.admission = Admission()
        cast(Any, self.admission)._loop = self.clock
        self.requests: list[Asking] = []

    def of(self, state: str) -> list[Asking]:
        """Return the requests in a state, in order of arrival."""
        return [request for request in self.requests if request.state == state]

    def line(self, *, write: bool) -> list[Asking]:
        """Return the waiting requests of a kind, in order of arrival."""
        return [request for request in self.of("waiting") if request.write == write]

    @rule(write=st.booleans(), ends_at_once=st.booleans())
    def come(self, write: bool, ends_at_once: bool) -> None:
        """A request arrives; some end as soon as they are admitted."""
        request = Asking(self.work, write=write, since=self.clock.now)
        before = self.line(write=write)
        self.requests.append(request)
        if self.admission.enter(write=write):
            assert not 0 < len(before) <= IN_ORDER_MAX
            request.admitted()
            return

        def admitted() -> None:
            line = self.line(write=write)
            assert request is line[0 if len(line) <= IN_ORDER_MAX else -1]
            request.admitted()
            if ends_at_once:
                self.leave(request)

        self.admission.wait(admitted, request.refused, write=write)

    def leave(self, request: Asking) -> None:
        """End a running request."""
        request.state = "done"
        self.admission.leave(write=request.write)

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A running request ends."""
        self.leave(data.draw(st.sampled_from(self.of("running"))))

    @rule()
    def turn(self) -> None:
        """The loop turns once."""
        self.clock.turn()

    @rule(looks=st.integers(1, 15))
    def time_passes(self, looks: int) -> None:
        """Time passes."""
        self.clock.pass_by(looks * admission.LOOK_SECONDS)

    @invariant()
    def the_caps_hold(self) -> None:
        """The counts match the running requests, and are within the caps."""
        running = [request.write for request in self.of("running")]
        assert (self.admission.reads, self.admission.writes) == (running.count(False), running.count(True))
        assert max(self.admission.reads, self.admission.writes) <= RUNNING_KIND_MAX
        assert len(running) <= RUNNING_MAX
        assert self.admission.refused == len(self.of("refused"))

    @invariant()
    def nobody_waits_too_long(self) -> None:
        """
        No waiting request is forgotten: it is refused at the first look after its time.

        If refusals are slow, earlier requests are refused first.
        """
        waiting = self.of("waiting")
        assert len(waiting) == sum(map(len, self.admission._waiting))
        latest = admission.WAIT_SECONDS + 2 * admission.LOOK_SECONDS
        for ahead, request in enumerate(waiting):
            slowed = (ahead // PER_LOOK + 1) * admission.LOOK_SECONDS if self.work.seconds else 0
            assert self.clock.now - request.since <= latest + slowed + 1e-9

    @precondition(lambda self: not self.clock._soon)
    @invariant()
    def no_place_is_left_empty(self) -> None:
        """When the loop is idle, no request waits while a place is free for it."""
        reads, writes = self.admission.reads, self.admission.writes
        for write, running in ((False, reads), (True, writes)):
            assert not self.line(write=write) or running == RUNNING_KIND_MAX or reads + writes == RUNNING_MAX

    def teardown(self) -> None:
        """In the end every request has been admitted or refused, and nothing is counted."""
        self.clock.pass_by(admission.WAIT_SECONDS + (len(self.requests) + 2) * admission.LOOK_SECONDS)
        assert self.of("waiting") == []
        for request in self.of("running"):
            self.leave(request)
        self.clock.settle()
        assert (self.admission.reads, self.admission.writes) == (0, 0)
        assert not self.clock._timers


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caps that few requests reach."""
    monkeypatch.setattr(admission, "RUNNING_MAX", RUNNING_MAX)
    monkeypatch.setattr(admission, "RUNNING_WRITES_MAX", RUNNING_KIND_MAX)
    monkeypatch.setattr(admission, "RUNNING_READS_MAX", RUNNING_KIND_MAX)
    monkeypatch.setattr(admission, "IN_ORDER_MAX", (IN_ORDER_MAX, IN_ORDER_MAX))


@pytest.mark.parametrize("seconds", [REFUSAL_SECONDS, 0.0], ids=["slow refusals", "fast refusals"])
def test_everyone_is_admitted_or_refused_in_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """In any order of arrivals and ends, the caps hold and no request is forgotten."""
    monkeypatch.setattr(AdmissionMachine, "work", Work(seconds))
    monkeypatch.setattr(admission, "clock", AdmissionMachine.work)
    monkeypatch.setattr(admission, "REFUSING_SAVED_SECONDS", admission.LOOK_SECONDS * admission.REFUSING_SHARE)
    run_state_machine_as_test(AdmissionMachine, settings=SETTINGS)


def full() -> tuple[Admission, Clock]:
    """Return an admission without a free place, and its clock."""
    clock, some = Clock(), Admission()
    cast(Any, some)._loop = clock
    for write in (True, False):
        while some.enter(write=write):
            pass
    return some, clock


def test_many_are_admitted_from_the_last() -> None:
    """If many wait, the last to arrive gets the place; if few wait, the first; writes come before reads."""
    some, clock = full()
    heard: list[str] = []
    for number, kind in enumerate("rwrwrw"):
        name = f"{kind}{number}"
        some.wait(partial(heard.append, name), partial(heard.append, f"-{name}"), write=kind == "w")
        clock.pass_by(0.02)
    for _ in range(3):
        some.leave(write=True)
    clock.settle()
    assert heard == ["w5", "w1", "w3"]
    some.leave(write=False)
    clock.settle()
    assert heard[3:] == ["r4"]
    clock.pass_by(admission.WAIT_SECONDS)
    assert heard[4:] == ["-r0", "-r2"]


@pytest.mark.parametrize("write", [False, True], ids=["reads", "writes"])
def test_a_kind_leaves_places_to_the_other(write: bool) -> None:
    """Waiting requests of one kind do not get the places that are kept for the other."""
    clock, some = Clock(), Admission()
    cast(Any, some)._loop = clock
    for _ in range(RUNNING_KIND_MAX):
        assert some.enter(write=write)
    assert not some.enter(write=write)
    admitted: list[bool] = []
    some.wait(lambda: admitted.append(True), lambda: None, write=write)
    for _ in range(RUNNING_MAX - RUNNING_KIND_MAX):
        assert some.enter(write=not write)
    assert not some.enter(write=not write)
    some.leave(write=not write)
    clock.settle()
    assert admitted == []
    some.leave(write=write)
    clock.settle()
    assert admitted == [True]


def flood(monkeypatch: pytest.MonkeyPatch, some: Admission, clock: Clock, count: int) -> list[int]:
    """Make this many reads and writes wait in turn, whose refusals take time; return the list of refused ones."""
    work = Work(REFUSAL_SECONDS)
    monkeypatch.setattr(admission, "clock", work)
    refused: list[int] = []

    def refuse(number: int) -> None:
        work.refuse()
        refused.append(number)

    for number in range(count):
        some.wait(lambda: None, partial(refuse, number), write=number % 2 == 0)
        clock.pass_by(1e-6)
    return refused


def test_refusals_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing saved up, refusing takes its share of the time, the oldest of reads and writes first."""
    monkeypatch.setattr(admission, "REFUSING_SAVED_SECONDS", admission.LOOK_SECONDS * admission.REFUSING_SHARE)
    some, clock = full()
    refused = flood(monkeypatch, some, clock, 100)
    clock.pass_by(admission.WAIT_SECONDS)
    before = len(refused)
    clock.pass_by(10 * admission.LOOK_SECONDS)
    assert before <= PER_LOOK + 1
    assert 10 * PER_LOOK <= len(refused) - before <= 10 * PER_LOOK + 2
    clock.pass_by(1.0)
    assert refused == list(range(100))


def test_the_first_of_a_flood_are_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time saved up before a flood is spent on its refusals, and saved again in a quiet time."""
    some, clock = full()
    saved = int(admission.REFUSING_SAVED_SECONDS / REFUSAL_SECONDS)
    for _ in range(2):
        refused = flood(monkeypatch, some, clock, saved)
        clock.pass_by(admission.WAIT_SECONDS - saved * 1e-6)
        assert len(refused) < saved / 10
        soon = admission.REFUSING_SAVED_SECONDS / admission.REFUSING_SHARE_MAX
        clock.pass_by(soon / 2)
        assert len(refused) < saved
        clock.pass_by(soon / 2 + 2 * admission.LOOK_SECONDS)
        assert refused == list(range(saved))
        clock.pass_by(admission.REFUSING_SAVED_SECONDS / admission.REFUSING_SHARE)


def test_those_who_are_told_later_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals that aiohttp sends count with an assumed time, because it cannot be measured."""
    monkeypatch.setattr(admission, "clock", Work(0.0))
    monkeypatch.setattr(admission, "REFUSING_SAVED_SECONDS", admission.LOOK_SECONDS * admission.REFUSING_SHARE)

    async def ask() -> int:
        some, clock = full()
        cast(Any, clock).create_future = asyncio.get_running_loop().create_future
        asked = [asyncio.ensure_future(some.entered(write=False)) for _ in range(100)]
        await asyncio.sleep(0)
        clock.pass_by(admission.WAIT_SECONDS + 2 * admission.LOOK_SECONDS)
        refused = some.refused
        clock.pass_by(5.0)
        assert await asyncio.gather(*asked) == [False] * 100
        return refused

    per_look = admission.LOOK_SECONDS * admission.REFUSING_SHARE / admission.WOKEN_SECONDS
    assert 0 < asyncio.run(ask()) <= 4 * (per_look + 1)
