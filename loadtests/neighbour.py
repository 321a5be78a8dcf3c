"""`make neighbour`: what a caller notices of another one that sends ten times what its limit allows."""

import argparse
import asyncio
import statistics
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from rich.console import Console

from loadtests.openloop.driver import Driver
from loadtests.openloop.results import Results, Summary
from loadtests.openloop.target import prepare
from loadtests.openloop.workloads import Target, make
from loadtests.own_server import OwnServer, own_server

# Requests a second of the caller who keeps to the limits, and the limit of the other one.
QUIET_RATE = 200.0
LIMIT = 200
FLOOD = 10
QUIET_CONNECTIONS = 64
NOISY_CONNECTIONS = 256
ACCOUNTS = 1_000
# Tokens of the noisy one: half a second of its rate, so that it is at its limit soon.
BURST = LIMIT // 2
# Seconds that the other process gets to start.
LEAD_SECONDS = 1.5
WARM_UP_SECONDS = 12.0
# By how much the flood may move the quiet caller's p99, beside what the limit allows the other one: a fifth.
MOVE_MAX = 1.2


def main() -> int:
    """Measure, alternating, and print the ratio; 1 when it is above the bar."""
    parser = argparse.ArgumentParser(prog="make neighbour", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the three parts of a round")
    arguments = parser.parse_args()
    with own_server() as server:
        return uvloop.run(_measure(server, arguments))


async def _measure(server: OwnServer, arguments: argparse.Namespace) -> int:
    console = Console()
    quiet = await prepare(server.url, server.create_key("quiet"), ACCOUNTS)
    # Opened with a key that may; the flood comes with one that has the limit.
    await prepare(server.url, server.create_key("noisy"), ACCOUNTS)
    noisy_key = server.create_key("noisy", ("--rate", f"{LIMIT}/s", "--burst", str(BURST)))
    await _quiet(quiet, WARM_UP_SECONDS)
    p99s: dict[int, list[float]] = {0: [], 1: [], FLOOD: []}
    for number in range(1, arguments.rounds + 1):
        for factor, values in p99s.items():
            async with _noise(server.url, noisy_key, factor * LIMIT, arguments.seconds + LEAD_SECONDS):
                summary = await _quiet(quiet, arguments.seconds)
            values.append(summary.p99)
            beside = f"beside {factor} times the limit" if factor else "alone"
            console.print(f"round {number}: p99 {summary.p99} ms {beside}; {summary.good} of {summary.due} good")
    alone, fair, flooded = (statistics.median(values) for values in p99s.values())
    console.print(
        f"p99, medians of {arguments.rounds}: {alone} ms alone, {fair} ms beside a caller at its limit of {LIMIT}/s,"
        f" {flooded} ms beside one at {FLOOD} times that: {flooded / alone:.2f} and {flooded / fair:.2f} times as much"
    )
    # What its limit allows the other one is no noise.
    return 0 if flooded / fair <= MOVE_MAX else 1


async def _quiet(target: Target, seconds: float) -> Summary:
    results = Results(0)
    driver = Driver(target, make("mixed", target, uuid.uuid4().hex[:12], 1), QUIET_CONNECTIONS, results)
    await driver.connect()
    taken = await driver.run(QUIET_RATE, seconds, 1)
    await driver.close()
    return results.summary(taken)


@asynccontextmanager
async def _noise(url: str, key: str, rate: float, seconds: float) -> AsyncIterator[None]:
    """Have another process send so many requests a second, since just before the body runs."""
    if not rate:
        yield
        return
    command = [sys.executable, "-m", "loadtests.openloop", "--url", url, "--key", key, "--accounts", "10"]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--connections", str(NOISY_CONNECTIONS)]
    process = await asyncio.create_subprocess_exec(
        *command, "--workload", "mixed", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.sleep(LEAD_SECONDS)
        yield
    finally:
        await process.wait()


if __name__ == "__main__":
    sys.exit(main())
