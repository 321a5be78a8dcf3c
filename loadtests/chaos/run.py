"""One run: everything started, clients set going, everything broken and healed, and all of it judged."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from loadtests.books import record_books
from loadtests.chaos import report
from loadtests.chaos.clients import PREFIX, Client, make_clients, open_accounts
from loadtests.chaos.judge import judge
from loadtests.chaos.nemesis import Nemesis
from loadtests.chaos.plan import Phase, plan
from loadtests.chaos.rig import LEDGERS, Rig, running
from loadtests.chaos.sending import HISTORY_BYTES_MAX, INSIST_SECONDS_MAX, Traffic
from loadtests.client import Client as Caller
from loadtests.history.recorder import Recorder

# Seconds between two lines of progress.
PROGRESS_SECONDS = 15.0
# Seconds beyond that in which a client knows its last outcome.
MARGIN_SECONDS = 10.0

# Stands between clients and a server: takes the server's address, gives the one that clients use.
Front = Callable[[str], AbstractAsyncContextManager[str]]


class Options(NamedTuple):
    """
    What is asked for.

    Args:
        folder: For history and logs, which stay there when something was wrong; it must be empty or not exist.
    """

    seed: int
    seconds: float
    folder: Path


async def run(options: Options, say: Callable[[str], None] = print, front: Front | None = None) -> bool:
    """
    Run, say what came of it, and return whether all is well.

    Raises:
        ServerError, ClientError, HistoryError: It could not be carried out.
    """
    phases = plan(options.seed, options.seconds)
    say(f"seed {options.seed}, {options.seconds:.0f} s, {sum(len(phase.steps) for phase in phases)} steps")
    options.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(running(options.folder))
        if front is not None:
            rig.urls = [await stack.enter_async_context(front(url)) for url in rig.urls]
        await open_accounts(rig)
        nemesis = await _traffic(rig, options, phases, say)
        say("reading the books")
        files = [options.folder / "history.jsonl"]
        for ledger in LEDGERS:
            files.append(options.folder / f"books-{ledger}.jsonl")
            await _read_books(rig, ledger, files[-1])
        await rig.audit()
        await rig.stop()
    judged = judge(files)
    for line in report.lines(judged, rig.counts, nemesis, rig.violations):
        say(line)
    violations = len(judged.verdict.violations) + len(rig.violations)
    missing = report.missing(judged, rig.counts, options.seconds)
    for what in missing:
        say(f"not seen: {what}")
    good = not violations and not missing
    found = f"{violations:,} violations" if violations or good else "not enough was seen"
    took = f"{judged.total:,} operations, {nemesis.done.total()} faults, {time.monotonic() - began:.0f} s"
    say(f"seed {options.seed}: {took}: {found}")
    if not good:
        say(f"again: make chaos SEED={options.seed} DURATION={options.seconds:.0f}   history, logs: {options.folder}")
    else:
        shutil.rmtree(options.folder)
    return good


async def _traffic(rig: Rig, options: Options, phases: list[Phase], say: Callable[[str], None]) -> Nemesis:
    """Let the clients run while the plan is carried out; return when all of them have ended."""
    with Recorder(options.folder / "history.jsonl", bytes_max=HISTORY_BYTES_MAX) as recorder:
        traffic = Traffic(rig, recorder, options.seed)
        try:
            for ledger in LEDGERS:
                await Client(traffic, ledger, "fund-0", str(options.seed)).fund()
            clients = make_clients(traffic, options.seed)
            nemesis = Nemesis(rig, traffic, [client.process for client in clients], say)
            async with asyncio.TaskGroup() as group, _progress(traffic, say):
                running_clients = [group.create_task(client.run()) for client in clients]
                await nemesis.run(phases)
                traffic.stopped = True
                async with asyncio.timeout(INSIST_SECONDS_MAX + MARGIN_SECONDS):
                    await asyncio.gather(*running_clients)
        finally:
            await traffic.close()
    return nemesis


@asynccontextmanager
async def _progress(traffic: Traffic, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Say now and then how far the clients are."""

    async def tell() -> None:
        before = traffic.recorder.operations
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            now = traffic.recorder.operations
            rate = (now - before) / PROGRESS_SECONDS
            lost = traffic.rig.counts["answer lost"]
            say(f"          {now:,} operations, {rate:,.0f}/s; {lost:,} answers lost")
            before = now

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()


async def _read_books(rig: Rig, ledger: str, path: Path) -> None:
    # Of the server itself: whatever stands before it has no part in what the books say.
    async with Caller(rig.servers[0].url, rig.keys[ledger]) as caller:
        with Recorder(path) as recorder:
            await record_books(caller, recorder, PREFIX, ledger)
