"""
`make bench`: measure Tallystick on this machine, beside what others do on it, and write benchmarks.md from the figures.

Parts that were measured at the same commit and scale are kept and not measured again. Ctrl-C stops it; what has been
measured until then is kept.
"""

import argparse
import asyncio
import contextlib
import datetime
import os
import sys
import time
from pathlib import Path

from loadtests.bench import machine, record
from loadtests.bench.parts import PARTS
from loadtests.bench.places import PEER_PYTHON
from loadtests.bench.record import Part
from loadtests.bench.report import TEMPLATE, render
from loadtests.bench.work import FULL, QUICK, Work
from loadtests.errors import FAILED, GOOD, NotRunError
from loadtests.openloop.generator import allow_files
from loadtests.processes import PROJECT, run_command, run_program
from loadtests.screen import Screen

PLOT_SECONDS_MAX = 120.0


def main() -> int:
    """Measure what is asked for and write the document; return 1 if books were wrong or something was not measured."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a little of everything")
    add("--part", help=f"only these, separated by commas: {', '.join(PARTS)}")
    add("--again", action="store_true", help="measure also what has been measured at this commit")
    add("--reports", type=Path, default=PROJECT / "reports" / "bench", help="folder for the figures")
    add("--document", type=Path, default=PROJECT / "benchmarks.md", help="file for the document")
    add("--plots", type=Path, default=PROJECT / "docs" / "benchmarks", help="folder for the plots")
    add("--write", action="store_true", help="measure nothing, only write the document again")
    arguments = parser.parse_args()
    chosen = list(PARTS) if arguments.part is None else arguments.part.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not Path("/proc/self/stat").exists():
        parser.error("processes are kept to cores, which only Linux can")
    if not PEER_PYTHON.exists():
        parser.error("what is compared with is not there; `make bench` makes it, or scripts/bootstrap.py bench")
    return run_program("bench", _run(arguments, chosen))


async def _run(arguments: argparse.Namespace, chosen: list[str]) -> int:
    screen = Screen()
    good = arguments.write or await _measure(arguments, chosen, screen)
    await _write(arguments, screen)
    return GOOD if good else FAILED


async def _measure(arguments: argparse.Namespace, chosen: list[str], screen: Screen) -> bool:
    scale = QUICK if arguments.quick else FULL
    words = ["--quick"] * arguments.quick + [f"--part {arguments.part}"] * (arguments.part is not None)
    command = f'make bench ARGS="{" ".join(words)}"' if words else "make bench"
    commit, facts = machine.commit(), machine.facts(PEER_PYTHON)
    good = True
    # Servers inherit the limit from here. A machine that allows fewer files measures fewer connections.
    with contextlib.suppress(NotRunError):
        allow_files(max(scale.crowds))
    for name in chosen:
        began, started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), time.monotonic()
        part = Part(name, scale.name, command, commit, facts, began)
        kept = record.read(arguments.reports, name)
        if kept is not None and kept.is_as_good_as(part) and not arguments.again:
            screen.say(f"{name}: measured {kept.began}, kept")
            continue
        try:
            await PARTS[name](Work(part, scale, screen))
        except NotRunError as error:
            good = False
            screen.say(f"{name}: not measured: {error}")
            continue
        except asyncio.CancelledError:
            # What has been measured is kept; then the program ends.
            part.complete = False
        part.took_seconds = round(time.monotonic() - started, 1)
        if part.counts or part.complete:
            record.write(arguments.reports, part)
        good = good and part.counts and part.complete
        verdict = part.audit if part.counts else f"DOES NOT COUNT: {part.audit or 'no audit'}"
        screen.say(f"{name}: {len(part.runs)} runs in {part.took_seconds:.0f} s; {verdict}")
        if not part.complete:
            screen.say("stopped; the same command goes on where it was")
            break
    return good


async def _write(arguments: argparse.Namespace, screen: Screen) -> None:
    found = [part for name in PARTS if (part := record.read(arguments.reports, name)) is not None]
    if not found:
        screen.say("nothing has been measured")
        return
    arguments.plots.mkdir(parents=True, exist_ok=True)
    command = [str(PEER_PYTHON), "-m", "loadtests.bench.plots", str(arguments.reports), str(arguments.plots)]
    done = await run_command(command, PLOT_SECONDS_MAX, {**os.environ, "PYTHONPATH": str(PROJECT)})
    if done.code != 0:
        raise NotRunError(f"the plots cannot be drawn:\n{done.last_lines}")
    template = TEMPLATE.read_text(encoding="utf-8")
    arguments.document.write_text(render(found, template, arguments.document, arguments.plots), encoding="utf-8")
    screen.say(f"written: {arguments.document}")


if __name__ == "__main__":
    sys.exit(main())
