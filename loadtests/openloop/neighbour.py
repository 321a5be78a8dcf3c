"""`make neighbour`: what one caller notices while another sends ten times what its limit allows."""

import argparse
import asyncio
import contextlib
import statistics

from loadtests.errors import FAILED, GOOD
from loadtests.openloop.driver import Driver, Task
from loadtests.openloop.generator import apart, prepare
from loadtests.openloop.results import answered
from loadtests.screen import Screen
from loadtests.servers import own_server

# Requests a second of the quiet caller, and the limit of the noisy one.
QUIET_RATE = 200.0
LIMIT = 200
FLOOD = 10
QUIET_CONNECTIONS = 64
NOISY_CONNECTIONS = 256
# Burst of the noisy caller: half a second of its rate, so that it soon reaches its limit.
BURST = LIMIT // 2
# Seconds that the noise lasts before and after the measured time.
LEAD_SECONDS = 0.5
# Bar for the quiet caller's p99 beside the flood, as a multiple of that beside a caller at its limit.
MOVE_MAX = 1.2


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the three parts of a round")


async def run(arguments: argparse.Namespace) -> int:
    screen = Screen()
    async with own_server() as server:
        key = await server.create_key("quiet")
        quiet = await prepare(server.url, [key])
        # Accounts are opened with a generous key; the flood uses a key that has the limit.
        noisy = await prepare(server.url, [await server.create_key("noisy")], 10)
        noisy = noisy._replace(keys=[await server.create_key("noisy", ("--rate", f"{LIMIT}/s", "--burst", str(BURST)))])
        await server.warm(key)
        p99s: dict[int, list[float]] = {0: [], 1: [], FLOOD: []}
        for number in range(1, arguments.rounds + 1):
            for factor, values in p99s.items():
                flood = Task(noisy, "mixed", NOISY_CONNECTIONS, arguments.seconds + 2 * LEAD_SECONDS, factor * LIMIT)
                async with apart([flood]) if factor else contextlib.nullcontext():
                    await asyncio.sleep(LEAD_SECONDS)
                    task = Task(quiet, "mixed", QUIET_CONNECTIONS, arguments.seconds, QUIET_RATE)
                    async with Driver(task) as driver:
                        found = (await driver.run()).figures()
                values.append(answered(found["p99"]))
                beside = f"beside {factor} times the limit" if factor else "alone"
                screen.say(f"round {number}: p99 {found['p99']} ms {beside}; {found['good']} of {found['due']} good")
    alone, fair, flooded = (statistics.median(values) for values in p99s.values())
    screen.say(
        f"p99, medians of {arguments.rounds}: {alone} ms alone, {fair} ms beside a caller at its limit of {LIMIT}/s,"
        f" {flooded} ms beside one at {FLOOD} times that: {flooded / alone:.2f} and {flooded / fair:.2f} times as much"
    )
    # Traffic that the limit allows is not counted as noise: the flood is compared with it.
    return GOOD if flooded / fair <= MOVE_MAX else FAILED
