"""Runs generators in separate processes, which begin when all are connected and return their counts."""

import asyncio
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Barrier

import uvloop

from loadtests.books import open_accounts, patient
from loadtests.client import address_of
from loadtests.errors import NotRunError
from loadtests.figures import Run
from loadtests.openloop.driver import Driver, Task
from loadtests.openloop.results import Results
from loadtests.openloop.workloads import PREFIX, Target
from loadtests.processes import cpu_times, cpu_used, family, keep_to

ACCOUNTS = 1_000
# Open files of a process besides its connections.
OTHER_FILES = 128
# Number of cores from which on generators get their own. With fewer, all processes share the cores as the kernel
# decides.
PINNING_CORES = 4
# Generators if there are that many cores.
GENERATORS = 2
# Seconds beside those of a run: the interpreter starts, connections are opened, the last requests are answered.
MARGIN_SECONDS = 90.0
# Starts a new interpreter, because a fork would copy the event loop and the connections.
_PROCESSES = multiprocessing.get_context("spawn")


def allow_files(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise NotRunError(f"{connections} connections need {wanted} files; the limit is {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def account_names(number: int) -> list[str]:
    return [f"{PREFIX}:{each}" for each in range(number)]


async def prepare(url: str, keys: list[str], accounts: int = ACCOUNTS) -> Target:
    """Open the accounts of runs, without floors, in the ledger of each key, unless they exist."""
    if address_of(url).scheme == "https":
        raise NotRunError(f"not an address of the form http://HOST:PORT: {url}")
    names = account_names(accounts)
    for key in keys:
        async with patient(url, key) as ledger:
            await open_accounts(ledger, names)
    return Target(url.rstrip("/"), keys, names)


@asynccontextmanager
async def apart(tasks: Sequence[Task]) -> AsyncIterator[list["asyncio.Future[tuple[Results, list[float]]]"]]:
    """Run each task in its own process; all begin when all are connected. Yields futures of the results of `_work`."""
    connected, loop = _PROCESSES.Barrier(len(tasks) + 1), asyncio.get_running_loop()
    with ProcessPoolExecutor(len(tasks), _PROCESSES, _get_ready, (connected,)) as pool:
        running = [loop.run_in_executor(pool, _work, task) for task in tasks]
        try:
            await asyncio.to_thread(connected.wait, MARGIN_SECONDS)
        except threading.BrokenBarrierError:
            await asyncio.gather(*running)
        yield running


class _Share:
    """Data that a generator process gets when it starts."""

    connected: Barrier


def _get_ready(connected: Barrier) -> None:
    # Ctrl-C reaches the whole process group; these processes end with their tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Share.connected = connected


def _work(task: Task) -> tuple[Results, list[float]]:
    """Return the results, and the seconds of user and system time that the run took."""

    async def run_when_connected() -> tuple[Results, list[float]]:
        async with Driver(task) as driver:
            await asyncio.to_thread(_Share.connected.wait)
            before = os.times()
            results = await driver.run()
            after = os.times()
        return results, [after.user - before.user, after.system - before.system]

    try:
        allow_files(task.connections)
        if task.core is not None:
            os.sched_setaffinity(0, {task.core})
        return uvloop.run(run_when_connected())
    except (NotRunError, OSError) as error:
        _Share.connected.abort()
        raise NotRunError(f"a generator failed: {type(error).__name__} {error}") from None


def cores() -> list[int | None]:
    free = sorted(os.sched_getaffinity(0))
    return [None] if len(free) < PINNING_CORES else list(free[-GENERATORS:])


def leave_cores(roots: Sequence[int]) -> None:
    """Keep these processes and all their children off the cores of the generators."""
    taken = {core for core in cores() if core is not None}
    if taken:
        keep_to(os.sched_getaffinity(0) - taken, [pid for root in roots for pid in family(root)])


async def run_apart(task: Task) -> Run:
    """Make one run in separate processes; a run with a rate has one."""
    roots = task.target.roots
    chosen = cores() if task.rate is None and task.connections >= GENERATORS else cores()[:1]
    leave_cores(roots)
    keys = task.target.keys
    parts = [
        task._replace(
            # Each generator begins with a different key.
            target=task.target._replace(keys=keys[number:] + keys[:number]),
            seed=task.seed + number,
            connections=task.connections // len(chosen) + (number < task.connections % len(chosen)),
            core=core,
        )
        for number, core in enumerate(chosen)
    ]
    async with apart(parts) as running:
        before = cpu_times(roots)
        found = await asyncio.gather(*running)
        after = cpu_times(roots)
    results = found[0][0]
    for more, _ in found[1:]:
        results.add(more)
    own = [sum(seconds) for seconds in zip(*(used for _, used in found), strict=True)]
    return {
        "workload": task.workload,
        "connections": task.connections,
        "rate": task.rate,
        **results.figures(),
        "seconds": task.seconds,
        "generator_share": sum(own) / task.seconds / len(chosen),
        "cpu": {**cpu_used(before, after), "generator": own},
    }
