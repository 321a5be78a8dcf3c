"""`python -m loadtests.openloop --url http://127.0.0.1:8080 --key $KEY --rate 5000 --workload post`."""

import argparse
import json
import sys
import uuid
from pathlib import Path

import uvloop
from rich.console import Console

from loadtests.openloop import workloads
from loadtests.openloop.driver import Driver
from loadtests.openloop.results import Results, Summary
from loadtests.openloop.target import prepare
from loadtests.openloop.workloads import make

# Milliseconds of the generator's own lateness (99 in 100) from which on a run says little about the server.
LAG_MAX_MS = 5.0


def main() -> int:
    """Run, print the figures; 1 when the generator could not keep up with itself."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.openloop", description=__doc__)
    parser.add_argument("--url", required=True, help="of the server: http://HOST:PORT")
    parser.add_argument("--key", required=True, help="an API key with the role write")
    parser.add_argument("--rate", type=float, help="requests a second; without it as fast as answers come")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--accounts", type=int, default=1_000, help="made if they do not exist")
    parser.add_argument("--workload", choices=workloads.NAMES, default="mixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    return uvloop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    console = Console(stderr=True)
    target = await prepare(arguments.url, arguments.key, arguments.accounts)
    run = uuid.uuid4().hex[:12]
    results = Results(0)
    driver = Driver(target, make(arguments.workload, target, run, arguments.seed), arguments.connections, results)
    await driver.connect()
    console.print(f"run {run}, seed {arguments.seed}, {arguments.connections} connections")
    seconds = await driver.run(
        arguments.rate,
        arguments.seconds,
        arguments.seed,
        lambda: console.print(f"due {results.due}, good {results.good}, refused {results.refused}"),
    )
    await driver.close()
    summary = results.summary(seconds)
    figures = summary.figures()
    figures["statuses"] = dict(results.statuses)
    figures["retry_after"] = dict(results.retry_after)
    text = json.dumps(figures, indent=2)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return _verdict(summary)


def _verdict(summary: Summary) -> int:
    if summary.lag_p99 > LAG_MAX_MS:
        print(f"the generator was late by {summary.lag_p99} ms: this run does not count", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
