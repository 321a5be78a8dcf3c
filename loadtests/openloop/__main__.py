"""
`python -m loadtests.openloop`: a fixed load on a server of yours, or one of the programs that bring their own server.

    overload | connections | neighbour | replay [OPTIONS]
    --url http://127.0.0.1:8080 --key KEY --rate 5000 --workload post
"""

import argparse
import json
import sys

from loadtests.errors import GOOD
from loadtests.openloop import connections, neighbour, overload, replay
from loadtests.openloop.driver import Driver, Task
from loadtests.openloop.generator import allow_files, prepare
from loadtests.openloop.workloads import NAMES
from loadtests.processes import run_program

PROGRAMS = {"overload": overload, "connections": connections, "neighbour": neighbour, "replay": replay}


def main(words: list[str]) -> int:
    """Run the program that the first word names; if it names none, send a fixed load."""
    named = bool(words) and words[0] in PROGRAMS
    name = words[0] if named else "openloop"
    program = PROGRAMS.get(name, sys.modules[__name__])
    parser = argparse.ArgumentParser(
        prog=f"make {name}" if named else "python -m loadtests.openloop",
        description=program.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    program.options(parser)
    return run_program(name, program.run(parser.parse_args(words[named:])))


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", required=True, help="of the server: http://HOST:PORT")
    add("--key", required=True, help="an API key with the role write")
    add("--rate", type=float, help="requests a second; without it as fast as answers come")
    add("--seconds", type=float, default=10.0)
    add("--connections", type=int, default=256)
    add("--workload", choices=NAMES, default="mixed")


async def run(asked: argparse.Namespace) -> int:
    """Send a fixed load and print the figures, which include how late the generator itself was."""
    allow_files(asked.connections)
    target = await prepare(asked.url, [asked.key])
    task = Task(target, asked.workload, asked.connections, asked.seconds, asked.rate)
    async with Driver(task) as driver:
        results = await driver.run()
    print(json.dumps(results.figures(), indent=2))
    return GOOD


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
