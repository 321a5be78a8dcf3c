"""Admission by itself, with a clock of its own: everyone is admitted or refused, once, in time, and within the caps."""

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
# Of these writes, and likewise reads.
RUNNING_KIND_MAX = 3
# Of five that wait, say, the first is then admitted first or the last.
IN_ORDER_MAX = 2
# So few that a flood waits for its refusals, and so many that one look gives more than one.
REFUSALS_PER_SECOND = 200
PER_LOOK = int(REFUSALS_PER_SECOND * admission.LOOK_SECONDS)

SETTINGS = settings(
    max_examples=120,
    stateful_step_count=60,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
)


class Clock:
    """A loop that does nothing by itself: its time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """Return its time."""
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call it in the next turn."""
        self._soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call it then."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), callback))

    def turn(self) -> None:
        """Run what is ready, and not what that makes ready."""
        ready, self._soon = self._soon, []
        for callback in ready:
            callback()

    def settle(self) -> None:
        """Run until nothing is ready."""
        while self._soon:
            self.turn()

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and run the timers that are due by then, each at its instant."""
        end = self.now + seconds
        self.settle()
        while self._timers and self._timers[0][0] <= end:
            self.now, _, callback = heapq.heappop(self._timers)
            callback()
            self.settle()
        self.now = end


class Asking:
    """A request: where it is, and since when."""

    def __init__(self, *, write: bool, since: float) -> None:
        self.write = write
        self.since = since
        self.state = "waiting"

    def admitted(self) -> None:
        """Note that it has a place."""
        assert self.state == "waiting"
        self.state = "running"

    def refused(self) -> None:
        """Note that it has none."""
        assert self.state == "waiting"
        self.state = "refused"


class AdmissionMachine(RuleBasedStateMachine):
    """Requests that come, end, and wait, in every order."""

    refuse_fast: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.admission = Admission()
        cast(Any, self.admission)._loop = self.clock
        self.requests: list[Asking] = []

    def of(self, state: str) -> list[Asking]:
        """Return the requests in a state, in the order in which they came."""
        return [request for request in self.requests if request.state == state]

    def line(self, *, write: bool) -> list[Asking]:
        """Return those of a kind that wait, in the order in which they came."""
        return [request for request in self.of("waiting") if request.write == write]

    @rule(write=st.booleans(), ends_at_once=st.booleans())
    def come(self, write: bool, ends_at_once: bool) -> None:
        """One more comes; some end as soon as they are admitted."""
        request = Asking(write=write, since=self.clock.now)
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
        """End one that runs."""
        request.state = "done"
        self.admission.leave(write=request.write)

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """One of those that run ends."""
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
        """What is counted is what runs, within the caps."""
        running = [request.write for request in self.of("running")]
        assert (self.admission.reads, self.admission.writes) == (running.count(False), running.count(True))
        assert max(self.admission.reads, self.admission.writes) <= RUNNING_KIND_MAX
        assert len(running) <= RUNNING_MAX
        assert self.admission.refused == len(self.of("refused"))

    @invariant()
    def nobody_waits_too_long(self) -> None:
        """
        Who waits was not forgotten: it is refused at the first look past its time.

        Where refusals are slowed down, those that came before it are refused before it.
        """
        waiting = self.of("waiting")
        assert len(waiting) == sum(map(len, self.admission._waiting))
        latest = admission.WAIT_SECONDS + 2 * admission.LOOK_SECONDS
        for ahead, request in enumerate(waiting):
            slowed = 0 if self.refuse_fast else (ahead // PER_LOOK + 1) * admission.LOOK_SECONDS
            assert self.clock.now - request.since <= latest + slowed + 1e-9

    @precondition(lambda self: not self.clock._soon)
    @invariant()
    def no_place_is_left_empty(self) -> None:
        """When the loop is at rest, nobody waits while there is a place for it."""
        reads, writes = self.admission.reads, self.admission.writes
        for write, running in ((False, reads), (True, writes)):
            assert not self.line(write=write) or running == RUNNING_KIND_MAX or reads + writes == RUNNING_MAX

    def teardown(self) -> None:
        """In the end everyone has been admitted or refused, and nothing is counted."""
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


@pytest.mark.parametrize("refusals", [REFUSALS_PER_SECOND, 1_000_000], ids=["slow refusals", "fast refusals"])
def test_everyone_is_admitted_or_refused_in_time(monkeypatch: pytest.MonkeyPatch, refusals: int) -> None:
    """Whatever comes and ends in whatever order, the caps hold and nobody is forgotten."""
    monkeypatch.setattr(admission, "REFUSALS_PER_SECOND", refusals)
    monkeypatch.setattr(AdmissionMachine, "refuse_fast", refusals != REFUSALS_PER_SECOND)
    run_state_machine_as_test(AdmissionMachine, settings=SETTINGS)


def full() -> tuple[Admission, Clock]:
    """Return an admission without a place, and its clock."""
    clock, some = Clock(), Admission()
    cast(Any, some)._loop = clock
    for write in (True, False):
        while some.enter(write=write):
            pass
    return some, clock


def test_many_are_admitted_from_the_last() -> None:
    """Of many that wait the last one that came gets the place, of few the first, writes before reads."""
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
    """Those of a kind that wait do not get the places that are kept for the other."""
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


def test_refusals_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood is refused at a bounded rate, the oldest of reads and writes together first, and none of it is kept."""
    monkeypatch.setattr(admission, "REFUSALS_PER_SECOND", REFUSALS_PER_SECOND)
    some, clock = full()
    refused: list[int] = []
    for number in range(100):
        some.wait(lambda: None, partial(refused.append, number), write=number % 2 == 0)
        clock.pass_by(1e-6)
    clock.pass_by(admission.WAIT_SECONDS)
    before = len(refused)
    clock.pass_by(10 * admission.LOOK_SECONDS)
    assert before <= PER_LOOK
    assert len(refused) - before <= 10 * PER_LOOK
    clock.pass_by(1.0)
    assert refused == list(range(100))
