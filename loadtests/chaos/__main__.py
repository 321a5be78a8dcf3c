"""
`make chaos`: everything under the clients is killed, frozen, cut off and flushed; all they were promised is checked.

Exit codes: 0 all is well, 1 a promise was broken or a run had not seen enough, 2 it could not be run, 130 interrupted.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from loadtests.books import open_books, patient, record_books
from loadtests.chaos.clients import ACCOUNTS, FUNDS, PREFIX, WORLD, make_clients
from loadtests.chaos.judge import Judged, judge
from loadtests.chaos.nemesis import Nemesis
from loadtests.chaos.plan import SECONDS_MIN, Phase, plan
from loadtests.chaos.readers import reading
from loadtests.chaos.rig import BROKERS, SINKS, Rig, running
from loadtests.errors import FAILED, GOOD, NOT_RUN
from loadtests.history.recorder import Recorder
from loadtests.payers import INSIST_SECONDS_MAX
from loadtests.processes import PROJECT, run_program

SECONDS, SEED = 120.0, 1
# The history of a longer run would not fit into the memory of the check.
SECONDS_MAX = 3600.0
# Seconds after the run in which a client may still learn its last outcome.
MARGIN_SECONDS = 10.0

say = partial(print, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="Break everything under the clients and check.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"{SECONDS_MIN:.0f} to {SECONDS_MAX:.0f}")
    parser.add_argument("--seed", type=int, default=SEED, help="chooses faults; requests are not timed by it")
    parser.add_argument("--plan", action="store_true", help="only print the faults of the seed")
    parser.add_argument("--brokers", choices=("there", "required", "none"), default="there", help="which take part")
    parser.add_argument("--reports", type=Path, default=PROJECT / "reports", metavar="FOLDER")
    asked = parser.parse_args(arguments)
    if not SECONDS_MIN <= asked.seconds <= SECONDS_MAX:
        parser.error(f"--seconds is {SECONDS_MIN:.0f} to {SECONDS_MAX:.0f}")
    missing = {kind.kind: "left out" if asked.brokers == "none" else kind.missing() for kind in BROKERS}
    without = [kind for kind, reason in missing.items() if reason]
    if asked.brokers != "none":
        for kind in without:
            say(f"without {kind}: {missing[kind]}")
    if asked.brokers == "required" and without:
        return NOT_RUN
    asked.brokers = missing.keys() - without
    phases = plan(asked.seed, asked.seconds, without if asked.brokers else [*without, SINKS])
    if asked.plan:
        for phase in phases:
            print(*phase.steps, f"{phase.until:6.1f} s  nothing", sep="\n")
        return GOOD
    # Folder for the history and the logs, which is kept if something was wrong.
    folder = asked.reports / "chaos" / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{asked.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return run_program("chaos", _run(asked, phases, folder))


async def _run(asked: argparse.Namespace, phases: list[Phase], folder: Path) -> int:
    began, steps = time.monotonic(), sum(len(phase.steps) for phase in phases)
    say(f"seed {asked.seed}, {asked.seconds:.0f} s, {steps} steps; logs: {folder}")
    async with running(folder, asked.brokers) as rig:
        with Recorder(folder / "feed.jsonl") as feed:
            async with reading(rig, feed) as readers:
                nemesis = await _traffic(rig, asked.seed, phases, folder)
                say("reading the books")
                with Recorder(folder / "books.jsonl") as books:
                    for ledger, key in rig.keys.items():
                        async with patient(rig.servers[0].url, key) as client:
                            await record_books(client, books, PREFIX, ledger)
                await readers.catch_up()
        await rig.audit()
        await rig.stop()
    judged = judge(folder, rig.violations)
    judged.seen.update(rig.counts)
    return GOOD if conclude(asked, judged, nemesis.done, folder, time.monotonic() - began) else FAILED


def conclude(asked: argparse.Namespace, judged: Judged, done: Counter[str], folder: Path, seconds: float) -> bool:
    """Report the findings and the faults, and return whether all is well; if not, the folder is kept."""
    for line in judged.lines(done):
        say(line)
    missing = judged.missing(asked.seconds, asked.brokers)
    for what in missing:
        say(f"not seen: {what}")
    violations = len(judged.verdict.violations) + len(judged.others)
    good = not violations and not missing
    found = f"{violations:,} violations" if violations or good else "not enough was seen"
    say(f"seed {asked.seed}: {judged.operations:,} operations, {done.total()} faults, {seconds:.0f} s: {found}")
    if good:
        shutil.rmtree(folder)
    else:
        say(f"again: make chaos SEED={asked.seed} DURATION={asked.seconds:.0f}   history, logs: {folder}")
    return good


async def _traffic(rig: Rig, seed: int, phases: list[Phase], folder: Path) -> Nemesis:
    """Run the clients while the plan is carried out; return when all of them have ended."""
    with Recorder(folder / "history.jsonl") as recorder:
        for ledger, key in rig.keys.items():
            async with patient(rig.servers[0].url, key) as client:
                await open_books(client, recorder, WORLD, ACCOUNTS, FUNDS, ledger=ledger)
        clients = make_clients(rig, recorder, seed)
        nemesis = Nemesis(rig, recorder, [client.process for client, _ in clients], say)
        async with asyncio.TaskGroup() as group:
            running_clients = [group.create_task(client.run(act)) for client, act in clients]
            await nemesis.run(phases)
            rig.stopped = True
            async with asyncio.timeout(INSIST_SECONDS_MAX + MARGIN_SECONDS):
                await asyncio.gather(*running_clients)
    return nemesis


if __name__ == "__main__":
    sys.exit(main())
