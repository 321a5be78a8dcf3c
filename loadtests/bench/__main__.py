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
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from loadtests.bench import machine, parts
from loadtests.bench.places import PEER_PYTHON
from loadtests.bench.record import BenchError, Part, read, write
from loadtests.bench.report import write_document
from loadtests.bench.scale import FULL, QUICK
from loadtests.bench.work import Shared, Work
from loadtests.client import ClientError
from loadtests.openloop.generator import TooManyFilesError, allow_files
from loadtests.processes import PROJECT, ServerError, run_command, run_program
from loadtests.screen import Screen

REPORTS = PROJECT / "reports" / "bench"
DOCUMENT = PROJECT / "benchmarks.md"
PLOTS = PROJECT / "docs" / "benchmarks"
PLOT_SECONDS_MAX = 120.0

PARTS: dict[str, Callable[[Work], Awaitable[None]]] = {
    "api": parts.api,
    "sides": parts.sides,
    "open": parts.open_loop,
    "generator": parts.generators,
    "ledgers": parts.many_ledgers,
    "connections": parts.crowds,
    "overload": parts.overload_curve,
    "transfers": parts.transfers,
}


def main() -> int:
    """Measure what is asked for, write the document; 1 when books were not right or not all was measured."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a little of everything, in a few minutes")
    parser.add_argument("--part", help=f"only these, separated by commas: {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured at this commit")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder for the figures")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="file for the document")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder for the plots")
    parser.add_argument("--write", action="store_true", help="measure nothing, only write the document again")
    arguments = parser.parse_args()
    chosen = list(PARTS) if arguments.part is None else arguments.part.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not Path("/proc/self/stat").exists():
        parser.error("CPU time is read out of /proc, which only Linux has")
    if not PEER_PYTHON.exists():
        parser.error("what is compared with is not there; `make bench` makes it, or scripts/bootstrap.py bench")
    return run_program(_run(arguments, chosen), uvloop.new_event_loop)


async def _run(arguments: argparse.Namespace, chosen: list[str]) -> int:
    screen = Screen()
    good = arguments.write or await _measure(arguments, chosen, screen)
    try:
        await _write(arguments, screen)
    except BenchError as error:
        screen.say(str(error))
        return 1
    return 0 if good else 1


async def _measure(arguments: argparse.Namespace, chosen: list[str], screen: Screen) -> bool:
    scale = QUICK if arguments.quick else FULL
    command = _command(arguments)
    commit, facts = machine.commit(), machine.facts(PEER_PYTHON)
    good = True
    # Servers get it from here. A machine that does not allow so many measures fewer.
    with contextlib.suppress(TooManyFilesError):
        allow_files(max(scale.crowds))
    async with AsyncExitStack() as stack:
        shared = Shared(stack)
        for name in chosen:
            kept = read(arguments.reports, name)
            same = kept is not None and (kept.commit, kept.scale, kept.machine) == (commit, scale.name, facts)
            if kept is not None and same and kept.complete and kept.counts and not arguments.again:
                screen.say(f"{name}: measured {kept.began}, kept")
                continue
            work = Work(name, scale, screen, shared)
            try:
                part, interrupted = await _measure_part(name, work, command, commit, facts)
            except (BenchError, ClientError, ServerError) as error:
                good = False
                screen.say(f"{name}: not measured: {error}")
                continue
            if part.counts or not interrupted:
                write(arguments.reports, part)
            good = good and part.clean
            verdict = part.audit if part.clean else f"DOES NOT COUNT: {part.audit}"
            screen.say(f"{name}: {len(part.runs)} runs in {part.took_seconds:.0f} s; {verdict}")
            if interrupted:
                good = False
                screen.say("stopped; the same command goes on where it was")
                break
    return good


async def _measure_part(name: str, work: Work, command: str, commit: str, facts: dict[str, str]) -> tuple[Part, bool]:
    began = datetime.datetime.now(datetime.UTC)
    started = time.monotonic()
    interrupted = False
    try:
        await PARTS[name](work)
    except asyncio.CancelledError:
        # What has been measured is kept; then this ends.
        interrupted = True
    # Nobody looked at the books of a part that ended before its first audit: nothing of it counts.
    clean = work.audits.clean and bool(work.audits.words)
    part = Part(
        name=name,
        scale=work.scale.name,
        command=command,
        commit=commit,
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        took_seconds=round(time.monotonic() - started, 1),
        clean=clean,
        audit="; ".join(work.audits.words) or "no audit",
        complete=not interrupted,
        machine=facts,
        settings=work.settings,
        runs=work.runs,
        notes=work.notes,
    )
    return part, interrupted


def _command(arguments: argparse.Namespace) -> str:
    words = ["--quick"] if arguments.quick else []
    if arguments.part is not None:
        words.append(f"--part {arguments.part}")
    return f'make bench ARGS="{" ".join(words)}"' if words else "make bench"


async def _write(arguments: argparse.Namespace, screen: Screen) -> None:
    found = [part for name in PARTS if (part := read(arguments.reports, name)) is not None]
    if not found:
        screen.say("nothing has been measured")
        return
    arguments.plots.mkdir(parents=True, exist_ok=True)
    command = [str(PEER_PYTHON), "-m", "loadtests.bench.plots", str(arguments.reports), str(arguments.plots)]
    done = await run_command(command, PLOT_SECONDS_MAX, {**os.environ, "PYTHONPATH": str(PROJECT)})
    if done.code != 0:
        raise BenchError(f"the plots cannot be drawn:\n{done.last_lines}")
    write_document(found, arguments.document, arguments.plots)
    screen.say(f"written: {arguments.document}")


if __name__ == "__main__":
    sys.exit(main())
