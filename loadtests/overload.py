"""
`make overload`: what a server of one's own does at 1, 2, 5 and 10 times the load it can take, and afterwards.

The peak is the highest rate at which all but one in a thousand are answered and p99 stays within a quarter of a second,
looked for downwards from what callers that wait for their answers come to. All runs but those callers' are open-loop:
arrivals are fixed beforehand and latency counts from when a request was due. What was refused must not have been
executed, what was answered must be there, and the books must be right.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import uvloop
from rich.console import Console
from rich.table import Table

from loadtests.openloop import workloads
from loadtests.openloop.driver import Driver
from loadtests.openloop.files import allow_files
from loadtests.openloop.results import ANSWERED, REFUSED, Results, Summary
from loadtests.openloop.target import prepare
from loadtests.openloop.workloads import Target, is_write, key_of, make
from loadtests.own_server import OwnServer, own_server, resident_bytes, said

FACTORS = (1, 2, 5, 10)
# Share of the peak that must come through at a factor.
BARS = {2: 0.95, 5: 0.90, 10: 0.80}
# Seconds until a cache that was just started is read from, and a little more.
WARM_UP_SECONDS = 12.0
# Callers that wait for their answers: the search for the peak begins at the best of these.
CALLERS = (256, 512, 1_024)
# Rates at which the peak is looked for, of what the callers came to: from the first on downwards.
PEAK_TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
# What a rate must keep to be the peak: share of requests without a good answer, milliseconds of the answers' p99.
PEAK_FAILED = 0.001
PEAK_P99_MS = 250.0
# Connections of the runs that are no flood.
CALM_CONNECTIONS = 256
# Of the peak: a load at which nothing waits.
UNLOADED = 0.3
# Of the peak, after the flood: nearly all of what the server can take.
AFTERWARDS = 0.7
# Requests whose fate is compared with the ledger, of each kind and run.
CHECKED_MAX = 500
ACCOUNTS = 1_000
MIB = 1024 * 1024


class Step(NamedTuple):
    """One run of the curve."""

    name: str
    summary: Summary
    share: float
    memory_mib: float


def main() -> int:
    """Measure the curve; 1 when a bar is missed or a promise broken."""
    parser = argparse.ArgumentParser(prog="make overload", description=__doc__)
    parser.add_argument("--workload", choices=workloads.NAMES, default="mixed")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--connections", type=int, default=4_000, help="of the runs after the peak")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--pin", action="store_true", help="the server and its databases on one core, this on another")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    console = Console()
    allow_files(arguments.connections)
    with own_server() as server:
        if arguments.pin:
            _pin(server)
        return uvloop.run(Curve(arguments, server, console).measure())


class Curve:
    """The runs of one curve and what they came to."""

    def __init__(self, arguments: argparse.Namespace, server: OwnServer, console: Console) -> None:
        self._arguments = arguments
        self._server = server
        self._console = console
        self.steps: list[Step] = []
        self.lies: list[str] = []
        self._peak = 0.0

    async def measure(self) -> int:
        """Run all of it and print the table."""
        key = self._server.create_key("overload")
        target = await prepare(self._server.url, key, ACCOUNTS)
        console, arguments = self._console, self._arguments
        console.print("warming up", style="dim")
        await self._run(target, "warm-up", 50.0, WARM_UP_SECONDS, CALM_CONNECTIONS)
        self.steps.clear()
        most = 0.0
        for connections in CALLERS:
            summary = await self._run(target, f"{connections} callers", None, arguments.seconds, connections)
            most = max(most, summary.goodput)
        await self._find_peak(target, most)
        self.steps = [step._replace(share=step.summary.goodput / self._peak) for step in self.steps]
        unloaded = await self._run(target, "unloaded", UNLOADED * self._peak, arguments.seconds, CALM_CONNECTIONS)
        missed = []
        for factor in arguments.factors:
            summary = await self._run(
                target, f"{factor:g}x", factor * self._peak, arguments.seconds, arguments.connections
            )
            if summary.goodput < BARS.get(factor, 0.0) * self._peak:
                missed.append(f"{factor:g}x: {summary.goodput / self._peak:.0%} of the peak")
        await self._run(target, "after", AFTERWARDS * self._peak, arguments.seconds, CALM_CONNECTIONS)
        self._show(unloaded)
        audit = self._server.audit()
        console.print(f"audit: {said(audit).splitlines()[-1]}")
        for line in missed:
            console.print(f"missed: {line}", style="yellow")
        for lie in self.lies:
            console.print(lie, style="red")
        self._write(missed, audit)
        return 1 if missed or self.lies or audit.returncode else 0

    async def _find_peak(self, target: Target, most: float) -> None:
        """Look for the highest rate that is served, from *most* downwards; of the tries, that one stays as a step."""
        for share in PEAK_TRIED:
            summary = await self._run(
                target, "peak", share * most, self._arguments.seconds, self._arguments.connections
            )
            if summary.failing <= PEAK_FAILED and summary.p99 <= PEAK_P99_MS:
                break
            if share == PEAK_TRIED[-1]:
                self._console.print("no rate was served without failures: the last one tried is taken", style="yellow")
            else:
                self.steps.pop()
        self._peak = self.steps[-1].summary.goodput

    async def _run(self, target: Target, name: str, rate: float | None, seconds: float, connections: int) -> Summary:
        run = uuid.uuid4().hex[:12]
        workload = self._arguments.workload
        # A little room: a Poisson process may have more arrivals than its mean.
        results = Results(int((rate or 50_000) * seconds * 1.2) + 1_000)
        driver = Driver(target, make(workload, target, run, self._arguments.seed), connections, results)
        await driver.connect()
        taken = await driver.run(rate, seconds, self._arguments.seed)
        memory = resident_bytes(self._server.worker) / MIB
        await driver.close()
        summary = results.summary(taken)
        share = summary.goodput / self._peak if self._peak else 0.0
        self.steps.append(Step(name, summary, share, memory))
        self._console.print(
            f"{name}: offered {summary.offered_rate:,.0f}/s, good {summary.goodput:,.0f}/s ({share:.0%}), p99"
            f" {summary.p99} ms, refused {summary.refused / taken:,.0f}/s"
        )
        if name == "after":
            self._recovery(results, summary)
        await self._check(target, run, results)
        return summary

    def _recovery(self, results: Results, summary: Summary) -> None:
        """Say when the goodput was back."""
        wanted = 0.95 * summary.offered_rate
        seconds = (second for second, good in sorted(results.good_by_second.items()) if good >= wanted)
        self._console.print(f"back to 95 % in second {next(seconds, None)} after the flood")

    async def _check(self, target: Target, run: str, results: Results) -> None:
        """Compare what some requests were told with what the ledger says."""
        choice = random.Random(self._arguments.seed)
        workload = self._arguments.workload
        for fate, there in ((ANSWERED, True), (REFUSED, False)):
            numbers = [n for n, noted in enumerate(results.fates) if noted == fate and is_write(workload, n)]
            chosen = choice.sample(numbers, min(len(numbers), CHECKED_MAX))
            async for number, found in _found(target, run, chosen):
                if found != there:
                    told = "answered" if there else "refused"
                    self.lies.append(f"{key_of(run, number)} was {told} and is {'' if found else 'not '}there")

    def _show(self, unloaded: Summary) -> None:
        table = Table(
            title=f"Overload, workload {self._arguments.workload}; latencies in ms from when a request was due"
        )
        for column in ("run", "offered/s", "good/s", "of peak", "p50", "p99", "p99 x", "refused/s", "p99", "unsent/s"):
            table.add_column(column, justify="right")
        table.add_column("lag p99", justify="right")
        table.add_column("MiB", justify="right")
        for name, s, share, memory in self.steps:
            ratio = s.p99 / unloaded.p99 if unloaded.p99 else 0.0
            table.add_row(
                name,
                f"{s.offered_rate:,.0f}",
                f"{s.goodput:,.0f}",
                f"{share:.0%}",
                f"{s.p50:g}",
                f"{s.p99:g}",
                f"{ratio:.1f}",
                f"{s.refused / s.seconds:,.0f}",
                f"{s.refused_p99:g}",
                f"{s.gave_up / s.seconds:,.0f}",
                f"{s.lag_p99:g}",
                f"{memory:.0f}",
            )
        self._console.print(table)

    def _write(self, missed: list[str], audit: "subprocess.CompletedProcess[str]") -> None:
        path = self._arguments.json
        if path is not None:
            steps = [{**step._asdict(), "summary": step.summary.figures()} for step in self.steps]
            found = {"missed": missed, "lies": self.lies, "clean": audit.returncode == 0, "audit": said(audit)}
            path.write_text(json.dumps({"steps": steps, **found}, indent=2) + "\n")


async def _found(target: Target, run: str, numbers: Iterable[int]) -> AsyncIterator[tuple[int, bool]]:
    """Say of each request whether the ledger knows its key."""
    headers = {"Authorization": f"Bearer {target.key}"}
    async with aiohttp.ClientSession(f"http://{target.host}:{target.port}", headers=headers) as session:
        for number in numbers:
            async with session.get(f"/v1/idempotency-keys/{key_of(run, number)}") as response:
                yield number, response.status == 200


def _pin(server: OwnServer) -> None:
    """Give the server and all it has started the first core, and this process the others."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    for pid in server.family():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cores[0]})


if __name__ == "__main__":
    sys.exit(main())
