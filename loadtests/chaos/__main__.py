"""
`make chaos`: everything under the clients is killed, frozen, cut off and flushed; all they were promised is checked.

Exit codes: 0 all is well, 1 a promise was broken or a run had not seen enough, 2 it could not be run, 130 interrupted.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

import uvloop

from loadtests.chaos.plan import SECONDS_MIN, plan
from loadtests.chaos.run import Front, Options, run
from loadtests.client import ClientError
from loadtests.history.model import HistoryError
from loadtests.processes import PROJECT, ServerError, run_program

GOOD, BROKEN, NOT_RUN = 0, 1, 2
SECONDS, SEED = 120.0, 1
# Longer runs would write a history that the check cannot hold in memory.
SECONDS_MAX = 3600.0


def main(arguments: list[str] | None = None, front: Front | None = None) -> int:
    """Run as the command line says, with something between clients and servers where it is given."""
    parser = argparse.ArgumentParser(prog="make chaos", description="Break everything under the clients and check.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"{SECONDS_MIN:.0f} to {SECONDS_MAX:.0f}")
    parser.add_argument("--seed", type=int, default=SEED, help="chooses faults; requests are not timed by it")
    parser.add_argument("--plan", action="store_true", help="only print the faults of the seed")
    parser.add_argument("--reports", type=Path, default=PROJECT / "reports", metavar="FOLDER")
    asked = parser.parse_args(arguments)
    if not SECONDS_MIN <= asked.seconds <= SECONDS_MAX:
        parser.error(f"--seconds is {SECONDS_MIN:.0f} to {SECONDS_MAX:.0f}")
    if asked.plan:
        for phase in plan(asked.seed, asked.seconds):
            print(*phase.steps, f"{phase.until:6.1f} s  nothing", sep="\n")
        return GOOD
    folder = asked.reports / "chaos" / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{asked.seed}"
    return run_program(_run(Options(asked.seed, asked.seconds, folder), front), uvloop.new_event_loop)


async def _run(options: Options, front: Front | None) -> int:
    try:
        return GOOD if await run(options, lambda line: print(line, flush=True), front) else BROKEN
    except (ServerError, ClientError, HistoryError) as error:
        print(f"chaos: {error}; logs: {options.folder}", file=sys.stderr)
    except ExceptionGroup:
        # Out of the midst of it: where it happened says more than what.
        traceback.print_exc()
        print(f"chaos: it could not go on; logs: {options.folder}", file=sys.stderr)
    return NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
