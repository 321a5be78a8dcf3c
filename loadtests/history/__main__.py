"""
`python -m loadtests.history FILE...`: check one run's history.

Exit codes: 0 nothing is wrong, 1 a check found something or had nothing to judge that it was to judge, 2 unreadable.
"""

import argparse
import sys
from pathlib import Path

from loadtests.errors import FAILED, GOOD, NOT_RUN
from loadtests.history.checks import check
from loadtests.history.model import HistoryError, load
from loadtests.history.verdict import CHECKS


def main(arguments: list[str] | None = None) -> int:
    """Check the files and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.history", description="Check the history of one run.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="all files of the run, the books too")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument(
        "--must-judge", nargs="+", choices=CHECKS, default=[], metavar="CHECK", help="fail when it judged nothing"
    )
    asked = parser.parse_args(arguments)
    try:
        history = load(asked.files)
    except (OSError, UnicodeDecodeError, HistoryError) as error:
        print(f"history: {error}", file=sys.stderr)
        return NOT_RUN
    verdict = check(history, asked.only)
    print(f"{len(history.operations):,} operations, {len(history.entries):,} entries")
    print(*verdict.lines({name: CHECKS[name] for name in asked.only}), sep="\n")
    idle = [name for name in asked.must_judge if not verdict.judged[name]]
    if idle:
        print(f"had nothing to judge: {', '.join(idle)}")
    return FAILED if verdict.violations or idle else GOOD


if __name__ == "__main__":
    sys.exit(main())
