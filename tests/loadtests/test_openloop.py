"""The open-loop generator: which answers it accepts, what it counts, and that it catches a server that lies."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from loadtests.errors import NotRunError
from loadtests.figures import Run, quantile
from loadtests.openloop import driver as driver_module
from loadtests.openloop import overload
from loadtests.openloop.driver import Driver, Task
from loadtests.openloop.generator import prepare
from loadtests.openloop.results import ANSWERED, REFUSED, Results
from loadtests.openloop.workloads import Target
from loadtests.processes import family
from loadtests.screen import Screen
from tests.support.service import in_process, make_key
from tests.support.waiting import until


@asynccontextmanager
async def stub(statuses: list[int], held: asyncio.Event | None = None) -> AsyncIterator[Target]:
    """A server that answers with these statuses in turn, once *held* is set."""
    turn = iter(range(10**9))

    async def answer(_: web.Request) -> web.Response:
        if held is not None:
            await held.wait()
        return web.Response(status=statuses[next(turn) % len(statuses)], headers={"Retry-After": "1"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        assert server.port is not None
        yield Target(f"http://127.0.0.1:{server.port}", ["made-up"], ["a", "b"])


async def test_every_request_that_is_due_is_counted_once() -> None:
    async with (
        stub([201, 201, 503, 429, 404]) as target,
        Driver(Task(target, "post", 8, 1.0, 200.0)) as driver,
    ):
        results = await driver.run()
    told = (results.good, results.late, results.refused, results.failed, results.broken, results.gave_up)
    assert sum(told) == results.due
    assert results.good > 0
    assert results.refused > 0
    assert results.failed > 0
    assert list(results.fates.values()).count(ANSWERED) == results.good + results.late
    assert list(results.fates.values()).count(REFUSED) == results.refused


async def run_held(seconds: float, released: Callable[[Driver, Results], bool]) -> Results:
    """Run against a server that answers once *released* returns true; return the results."""
    held = asyncio.Event()
    async with stub([200], held) as target, Driver(Task(target, "post", 4, seconds, 200.0)) as driver:
        running = asyncio.create_task(driver.run())
        await until(lambda: released(driver, driver.results))
        held.set()
        return await running


async def test_a_server_that_holds_its_answers_is_not_waited_for() -> None:
    """Requests come due while none is answered, and those without a free connection are never sent."""
    results = await run_held(1.0, lambda _, results: results.gave_up > 0)
    assert results.due > 4
    assert results.gave_up > 0


async def test_what_is_answered_when_nothing_is_sent_any_more_is_no_goodput() -> None:
    """An answer in time that arrives after sending has ended does not count as goodput."""
    results = await run_held(0.3, lambda driver, _: driver._over)
    figures = results.figures()
    assert (results.good, results.counted) == (4, 0)
    assert (figures["per_second"], figures["p99"]) == (0.0, 0.0)


@pytest.mark.parametrize(("rate", "seconds", "settles"), [(200.0, 0.7, True), (200.0, 0.5, False), (None, 0.7, False)])
async def test_goodput_is_that_of_a_run_that_has_settled(
    monkeypatch: pytest.MonkeyPatch, rate: float | None, seconds: float, settles: bool
) -> None:
    """Answers while the queues fill do not count if the run is long enough and has a rate."""
    monkeypatch.setattr(driver_module, "SETTLING_SECONDS", 0.3)
    async with stub([200]) as target, Driver(Task(target, "post", 8, seconds, rate)) as driver:
        results = await driver.run()
    assert (results.counted < len(results.latencies)) == settles
    assert (results.window < results.seconds - 0.2) == settles


class _Curve(overload.Curve):
    """A curve with invented runs, which fail above a given rate."""

    def __init__(self, served: float) -> None:
        super().__init__(Task(Target("http://127.0.0.1:1", ["made-up"], ["a"]), "mixed", 64, 1.0), 1, Screen())
        self.served = served
        self.rates: list[float] = []

    async def _run(self, name: str, rate: float | None, connections: int) -> Run:
        assert rate is not None
        self.rates.append(rate)
        results = Results()
        results.due = 1_000
        results.good = results.due if rate <= self.served else results.due - 2
        results.refused = results.due - results.good
        results.counted = results.good
        results.seconds = results.window = results.due / rate
        self.steps.append({"step": name, **results.figures()})
        return self.steps[-1]


@pytest.mark.parametrize(("served", "tries", "peak"), [(9e9, 1, 1_000.0), (921.0, 3, 900.0), (0.0, 11, 499.0)])
async def test_the_peak_is_the_highest_rate_that_is_served(served: float, tries: int, peak: float) -> None:
    """
    Rates are tried downwards, and only the run of the first rate that is served, or else of the last, stays as a step.
    """
    curve = _Curve(served)
    assert await curve._find_peak(1_000.0) == pytest.approx(peak)
    assert len(curve.rates) == tries
    assert curve.rates == sorted(curve.rates, reverse=True)
    assert [step["step"] for step in curve.steps] == ["peak"]


class _Silent(_Curve):
    """A curve of a server that answers nothing."""

    async def _run(self, name: str, rate: float | None, connections: int) -> Run:
        return Results().figures()


async def test_a_server_that_answers_nothing_has_no_peak() -> None:
    """If no request is answered in time, the program says so."""
    with pytest.raises(NotRunError, match="no request was answered in time"):
        await _Silent(0.0).measure()


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 0.999))
def test_a_quantile_is_one_of_the_values(values: list[float], share: float) -> None:
    ordered = sorted(values)
    value = quantile(ordered, share)
    assert value in ordered
    assert sum(other <= value for other in ordered) >= share * len(ordered)


@asynccontextmanager
async def curve(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[overload.Curve]:
    """A curve of short runs against a real server."""
    monkeypatch.setattr(overload, "CALLERS", (8,))
    monkeypatch.setattr(overload, "PEAK_TRIED", (0.4,))
    monkeypatch.setattr(overload, "BARS", {})
    monkeypatch.setattr(overload, "FACTORS", (2,))
    monkeypatch.setattr(overload, "CHECKED_MAX", 20)
    async with in_process(database_url) as service:
        target = await prepare(service.url, [await make_key(database_url, "overload")])
        yield overload.Curve(Task(target, "mixed", 64, 0.8), os.getpid(), Screen())


async def test_a_curve_of_a_real_server(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are made, no refused transfer is in the ledger, and every answered one is."""
    async with curve(database_url, monkeypatch) as measured:
        await measured.measure()
        assert [step["step"] for step in measured.steps] == ["8 callers", "peak", "unloaded", "2x", "after"]
        assert measured.lies == []
        assert all(step["good"] > 0 for step in measured.steps)


async def test_a_curve_catches_lies(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If refusals count as answers, the curve finds that they are not in the ledger."""
    monkeypatch.setattr(overload, "REFUSED", ANSWERED)
    async with curve(database_url, monkeypatch) as measured:
        await measured.measure()
        assert measured.lies


def test_the_family_of_a_process_has_itself() -> None:
    assert family(1)[0] == 1
