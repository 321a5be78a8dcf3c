"""
`python -m loadtests.openloop`: a fixed load on a server of yours, or one of the programs that bring their own server.

    overload | connections | neighbour | replay [OPTIONS]
    --url http://127.0.0.1:8080 --key KEY --rate 5000 --workload post
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from loadtests.openloop import connections, neighbour, overload, replay
from loadtests.openloop.generator import Task, allow_files, generate, new_run, prepare
from loadtests.openloop.results import LAG_MAX_MS, Results
from loadtests.openloop.workloads import NAMES
from loadtests.processes import run_program

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "overload": overload.main,
    "connections": connections.main,
    "neighbour": neighbour.main,
    "replay": replay.main,
}


def main(words: list[str]) -> int:
    """Run the program that the first word names; without one, send a fixed load."""
    program = PROGRAMS.get(words[0]) if words else None
    return fixed(words) if program is None else program(words[1:])


def fixed(words: list[str]) -> int:
    """Run, print the figures; 1 when the generator could not keep up with itself."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.openloop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="of the server: http://HOST:PORT")
    parser.add_argument("--key", required=True, help="an API key with the role write")
    parser.add_argument("--rate", type=float, help="requests a second; without it as fast as answers come")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--accounts", type=int, default=1_000, help="made if they do not exist")
    parser.add_argument("--workload", choices=NAMES, default="mixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return run_program("openloop", _run(parser.parse_args(words)), uvloop.new_event_loop)


async def _run(arguments: argparse.Namespace) -> int:
    allow_files(arguments.connections)
    target = await prepare(arguments.url, [arguments.key], arguments.accounts)
    run = new_run()
    print(f"run {run}, seed {arguments.seed}, {arguments.connections} connections", file=sys.stderr)

    def tick(results: Results) -> None:
        print(f"due {results.due}, good {results.good}, refused {results.refused}", file=sys.stderr)

    task = Task(
        target, arguments.workload, arguments.connections, arguments.seconds, arguments.rate, arguments.seed, run
    )
    results = await generate(task, tick=tick)
    found = results.figures()
    text = json.dumps({**found, "retry_after": dict(results.retry_after)}, indent=2)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    if found["late_generator"]:
        late = f"the generator was late by {found['lag_p99']} ms, more than {LAG_MAX_MS:g}: this run does not count"
        print(late, file=sys.stderr)
    return 1 if found["late_generator"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
