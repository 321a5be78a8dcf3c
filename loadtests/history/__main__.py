"""
`python -m loadtests.history FILE...`: check one run's history.

Exit codes: 0 nothing is wrong, 1 a check found something or had nothing to judge that it was to judge, 2 unreadable.
"""

import argparse
import sys
from pathlib import Path

from loadtests.history.checks import check
from loadtests.history.model import HistoryError, load
from loadtests.history.verdict import CHECKS

# Violations that are printed of each check; the count says how many there are.
SHOWN_MAX = 10


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
        return 2
    verdict = check(history, asked.only)
    print(f"{len(history.operations):,} operations, {len(history.entries):,} entries")
    for name in asked.only:
        found = [violation.what for violation in verdict.violations if violation.check == name]
        said = f"{len(found):,} violations" if found else "holds" if verdict.judged[name] else "nothing to judge"
        print(f"{name} {said:<18} {verdict.judged[name]:>9,} judged   {CHECKS[name]}")
        for what in found[:SHOWN_MAX]:
            print(f"     {what}")
    idle = [name for name in asked.must_judge if not verdict.judged[name]]
    if idle:
        print(f"had nothing to judge: {', '.join(idle)}")
    return 1 if verdict.violations or idle else 0


if __name__ == "__main__":
    sys.exit(main())
