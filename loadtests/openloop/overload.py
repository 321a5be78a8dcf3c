"""
`make overload`: measure a new server at 1, 2, 5 and 10 times the load that it can take, and afterwards.

All runs are open-loop, with arrivals that are fixed beforehand, except those of callers that wait for their answers.
Refused requests must not have been executed, answered ones must be in the ledger, and the books must be right.
"""

import argparse
import asyncio
import os
import random

from loadtests.books import patient
from loadtests.errors import FAILED, GOOD
from loadtests.figures import Run, aligned, runs_table
from loadtests.openloop.driver import Driver, Task
from loadtests.openloop.generator import allow_files, prepare
from loadtests.openloop.results import ANSWERED, CURVE, REFUSED, Results, answered
from loadtests.openloop.workloads import NAMES, is_write, key_of
from loadtests.processes import Done, family, keep_to, resident_bytes
from loadtests.screen import Screen
from loadtests.servers import own_server
from tallystick_client import ProblemError

FACTORS = (1, 2, 5, 10)
# Share of the peak that must be answered in time, by factor.
BARS: dict[float, float] = {2: 0.95, 5: 0.90, 10: 0.80}
# Numbers of callers that wait for their answers: the search for the peak begins at the best result of these.
CALLERS = (256, 512, 1_024)
# Rates at which the peak is searched, as shares of that result, from the highest downwards.
PEAK_TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
# What a rate must meet to be the peak: share of requests without a good answer, and p99 in milliseconds.
PEAK_FAILED = 0.001
PEAK_P99_MS = 250.0
CONNECTIONS = 4_000
# Connections of the runs below the peak.
CALM_CONNECTIONS = 256
# Share of the peak at which nothing waits.
UNLOADED = 0.3
# Share of the peak after the flood: nearly all that the server can take.
AFTERWARDS = 0.7
# Requests that are compared with the ledger, for each outcome and run.
CHECKED_MAX = 500
MIB = 1024 * 1024


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workload", choices=NAMES, default="mixed")
    add("--seconds", type=float, default=10.0, help="of each run")
    add("--connections", type=int, default=CONNECTIONS, help="of the runs after the peak")
    add("--pin", action="store_true", help="the server and its databases on one core, this on another")


async def run(asked: argparse.Namespace) -> int:
    """Measure the curve; return FAILED if a bar is missed or a promise is broken."""
    screen = Screen()
    curve, audit = await measure_own(screen, **vars(asked))
    screen.say(aligned(runs_table(asked.workload, [(step["step"], [step]) for step in curve.steps], CURVE)))
    screen.say(f"audit: {audit.last_line}")
    for line in (*(f"missed: {missed}" for missed in curve.missed), *curve.lies):
        screen.say(line)
    return FAILED if curve.missed or curve.lies or audit.code else GOOD


async def measure_own(
    screen: Screen, workload: str, seconds: float, *, connections: int = CONNECTIONS, pin: bool = False
) -> "tuple[Curve, Done]":
    """Measure a curve on a new server; return it and the audit."""
    allow_files(connections)
    cores = os.sched_getaffinity(0)
    async with own_server() as server:
        if pin:
            # The server and its children get the first core, this process the others.
            keep_to({min(cores)}, family(server.pid))
            keep_to(cores - {min(cores)} or cores, [os.getpid()])
        try:
            key = await server.create_key("overload")
            task = Task(await prepare(server.url, [key]), workload, connections, seconds)
            screen.progress("warming up")
            await server.warm(key)
            curve = Curve(task, server.worker, screen)
            await curve.measure()
        finally:
            if pin:
                keep_to(cores, [os.getpid()])
        return curve, await server.audit()


class Curve:
    """
    Measures the runs of one curve. The task says what they have in common; *worker* is the server's worker process.

    `steps`: the figures of the runs, with their names. `missed`: bars that were missed. `lies`: requests whose answer
    contradicts the ledger.
    """

    def __init__(self, task: Task, worker: int, screen: Screen) -> None:
        self._task, self._worker, self._screen = task, worker, screen
        self.steps: list[Run] = []
        self.missed: list[str] = []
        self.lies: list[str] = []

    async def measure(self) -> None:
        callers = [await self._run(f"{number} callers", None, number) for number in CALLERS]
        peak = await self._find_peak(answered(max(run["per_second"] for run in callers)))
        unloaded = await self._run("unloaded", UNLOADED * peak, CALM_CONNECTIONS)
        for factor in FACTORS:
            run = await self._run(f"{factor:g}x", factor * peak, self._task.connections)
            if run["per_second"] < BARS.get(factor, 0.0) * peak:
                self.missed.append(f"{factor:g}x: {run['per_second'] / peak:.0%} of the peak")
        await self._run("after", AFTERWARDS * peak, CALM_CONNECTIONS)
        for step in self.steps:
            step["of_peak"] = step["per_second"] / peak
            step["of_unloaded_p99"] = step["p99"] / unloaded["p99"] if unloaded["p99"] else None

    async def _find_peak(self, most: float) -> float:
        """
        Return the highest rate, from *most* downwards, that the server can serve; only its run stays among the steps.
        """
        for share in PEAK_TRIED:
            run = await self._run("peak", share * most, self._task.connections)
            if run["failing"] <= PEAK_FAILED and run["p99"] <= PEAK_P99_MS:
                break
            # If no rate was served, the last one is taken.
            if share != PEAK_TRIED[-1]:
                self.steps.pop()
        return answered(float(self.steps[-1]["per_second"]))

    async def _run(self, name: str, rate: float | None, connections: int) -> Run:
        self._screen.progress(name)
        async with Driver(self._task._replace(rate=rate, connections=connections)) as driver:
            results = await driver.run()
            memory = resident_bytes(self._worker) / MIB
        found = {"step": name, "memory_mib": memory, **results.figures()}
        self.steps.append(found)
        await self._check(driver.name, results)
        return found

    async def _check(self, run: str, results: Results) -> None:
        """Compare the answers to some requests with the ledger."""
        target, workload = self._task.target, self._task.workload
        async with patient(target.url, target.keys[0]) as ledger:

            async def is_there(number: int) -> bool:
                try:
                    return bool(await ledger.idempotency_keys.get(key_of(run, number)))
                except ProblemError as error:
                    if error.code != "idempotency_key_not_found":
                        raise
                    return False

            for fate, there in ((ANSWERED, True), (REFUSED, False)):
                noted = (number for number, noted in results.fates.items() if noted == fate)
                numbers = [number for number in noted if is_write(workload, number)]
                chosen = random.sample(numbers, min(len(numbers), CHECKED_MAX))
                for number, found in zip(chosen, await asyncio.gather(*map(is_there, chosen)), strict=True):
                    if found != there:
                        said = "answered" if there else "refused"
                        self.lies.append(f"{key_of(run, number)} was {said} and is {'' if found else 'not '}there")
