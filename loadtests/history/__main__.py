"""
`python -m loadtests.history FILE...`: check one run's history.

Exit codes: 0 nothing is wrong, 1 a check found something, 2 unreadable.
"""

import argparse
import sys
from pathlib import Path

from loadtests.errors import FAILED, GOOD, NOT_RUN, NotRunError
from loadtests.history.checks import CHECKS, check
from loadtests.history.feed import FEED_CHECKS
from loadtests.history.model import load


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.history", description="Check the history of one run.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="all files of the run, the books too")
    asked = parser.parse_args(arguments)
    try:
        history = load(asked.files)
    except (OSError, UnicodeDecodeError, NotRunError) as error:
        print(f"history: {error}", file=sys.stderr)
        return NOT_RUN
    checks = {**CHECKS, **FEED_CHECKS}
    verdict = check(history, checks)
    print(f"{len(history.operations):,} operations, {len(history.entries):,} entries")
    print(*verdict.lines(checks), sep="\n")
    return FAILED if verdict.violations else GOOD


if __name__ == "__main__":
    sys.exit(main())
