"""A fixed load on a server of yours: --url http://127.0.0.1:8080 --key KEY --rate 5000 --workload post"""

import argparse
import json
import sys
from pathlib import Path

from loadtests.errors import FAILED, GOOD
from loadtests.openloop.driver import Driver, Task, new_run
from loadtests.openloop.generator import allow_files, prepare
from loadtests.openloop.results import LAG_MAX_MS, Results
from loadtests.openloop.workloads import NAMES


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked for."""
    add = parser.add_argument
    add("--url", required=True, help="of the server: http://HOST:PORT")
    add("--key", required=True, help="an API key with the role write")
    add("--rate", type=float, help="requests a second; without it as fast as answers come")
    add("--seconds", type=float, default=10.0)
    add("--connections", type=int, default=256)
    add("--accounts", type=int, default=1_000, help="made if they do not exist")
    add("--workload", choices=NAMES, default="mixed")
    add("--seed", type=int, default=1)
    add("--json", type=Path, help="file for the figures")


async def run(asked: argparse.Namespace) -> int:
    """Send it and print the figures; FAILED when the generator could not keep up with itself."""
    allow_files(asked.connections)
    target = await prepare(asked.url, [asked.key], asked.accounts)
    name = new_run()
    print(f"run {name}, seed {asked.seed}, {asked.connections} connections", file=sys.stderr)

    def tick(results: Results) -> None:
        print(f"due {results.due}, good {results.good}, refused {results.refused}", file=sys.stderr)

    task = Task(target, asked.workload, asked.connections, asked.seconds, asked.rate, asked.seed, name)
    async with Driver(task) as driver:
        results = await driver.run(tick)
    found = results.figures()
    text = json.dumps({**found, "retry_after": dict(results.retry_after)}, indent=2)
    if asked.json is not None:
        asked.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    if not found["late_generator"]:
        return GOOD
    late = f"the generator was late by {found['lag_p99']} ms, more than {LAG_MAX_MS:g}: this run does not count"
    print(late, file=sys.stderr)
    return FAILED
