"""
`python -m loadtests.openloop`: a fixed load on a server of yours, or one of the programs that bring their own server.

    overload | connections | neighbour | replay [OPTIONS]
    --url http://127.0.0.1:8080 --key KEY --rate 5000 --workload post
"""

import argparse
import sys

import uvloop

from loadtests.openloop import connections, fixed, neighbour, overload, replay
from loadtests.processes import run_program

PROGRAMS = {"overload": overload, "connections": connections, "neighbour": neighbour, "replay": replay}


def main(words: list[str]) -> int:
    """Run the program that the first word names; without one, send a fixed load."""
    named = bool(words) and words[0] in PROGRAMS
    name = words[0] if named else "openloop"
    parser = argparse.ArgumentParser(
        prog=f"make {name}" if named else "python -m loadtests.openloop",
        description=(PROGRAMS[name] if named else sys.modules[__name__]).__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    program = PROGRAMS.get(name, fixed)
    program.options(parser)
    return run_program(name, program.run(parser.parse_args(words[named:])), uvloop.new_event_loop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
