"""
Generators in processes of their own: one tells when it is connected, begins when it is told to, and hands over what it
has counted.
"""

import asyncio
import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any, Self

import uvloop

from loadtests.client import Client, ClientError, address_of
from loadtests.errors import NotRunError
from loadtests.figures import Run
from loadtests.openloop.driver import Driver, Task, new_run
from loadtests.openloop.results import Results
from loadtests.openloop.workloads import PREFIX, Target
from loadtests.processes import KILLED_SECONDS_MAX, ServerError, cpu_times, cpu_used, family, keep_to

ACCOUNTS = 1_000
# Files of a process that are no connections.
OTHER_FILES = 128
# Cores from which on generators get some for themselves. On fewer everything shares what there is, as the kernel likes.
PINNING_CORES = 4
# Generators where there are as many cores.
GENERATORS = 2
# Seconds beside those of a run: the interpreter starts, connections are made, what is under way is answered.
MARGIN_SECONDS = 90.0
# A fresh interpreter: a copy of this one would have its loop and its connections.
_PROCESSES = multiprocessing.get_context("spawn")


class TooManyFilesError(NotRunError):
    """The system does not allow so many connections."""


class GeneratorError(ServerError):
    """A generator in a process of its own failed; the message says why."""


def allow_files(connections: int) -> None:
    """
    Let this process have so many connections.

    Raises:
        TooManyFilesError: The hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise TooManyFilesError(f"{connections} connections need {wanted} files; the limit is {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def prepare(url: str, keys: list[str], accounts: int = ACCOUNTS) -> Target:
    """
    Open the accounts of runs in the ledger of each key, without floors, unless they are there.

    Raises:
        ClientError: The address is none, or the accounts could not be opened.
    """
    host, port, tls = address_of(url)
    if tls:
        raise ClientError(f"not an address of the form http://HOST:PORT: {url}")
    names = [f"{PREFIX}:{number}" for number in range(accounts)]
    for key in keys:
        async with Client(url, key) as client:
            # Nobody waits for a server that is not there.
            await client.ask("GET", "/v1/accounts?limit=1")
            await client.open_accounts(names)
    return Target(host, port, keys, names)


class Child:
    """A generator in a process of its own, which is gone when the body ends."""

    def __init__(self, task: Task) -> None:
        self._seconds = task.seconds
        self._pipe, self._theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(task, self._theirs), daemon=True)

    async def __aenter__(self) -> Self:
        self._process.start()
        # Only the child has it now: when the child is gone, nothing more can come.
        self._theirs.close()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        await asyncio.to_thread(self._process.join, KILLED_SECONDS_MAX)
        self._pipe.close()

    async def _heard(self, seconds_max: float) -> Any:
        if not await asyncio.to_thread(self._pipe.poll, seconds_max):
            raise GeneratorError(f"a generator said nothing for {seconds_max:.0f} s")
        try:
            said = self._pipe.recv()
        except EOFError:
            raise GeneratorError("a generator ended without a word") from None
        if isinstance(said, str):
            raise GeneratorError(f"a generator failed: {said}")
        return said

    async def ready(self) -> None:
        """Return when it is connected."""
        await self._heard(MARGIN_SECONDS)

    def begin(self) -> None:
        """Let it send."""
        self._pipe.send(None)

    async def found(self) -> tuple[Results, list[float]]:
        """Return its results, and the seconds of user and of system time that it has used."""
        results, cpu = await self._heard(self._seconds + MARGIN_SECONDS)
        return results, cpu


def _work(task: Task, pipe: Pipe) -> None:
    """Do a task for the process that has started this one; tell it of an error as text."""
    # Ctrl-C reaches the whole group; this process is ended by the other one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        allow_files(task.connections)
        if task.core is not None:
            os.sched_setaffinity(0, {task.core})
        pipe.send(uvloop.run(_run_when_told(task, pipe)))
    except (NotRunError, OSError) as error:
        pipe.send(f"{type(error).__name__} {error}")


async def _run_when_told(task: Task, pipe: Pipe) -> tuple[Results, list[float]]:
    async with Driver(task) as driver:
        pipe.send(None)
        await asyncio.to_thread(pipe.recv)
        before = _cpu_seconds()
        results = await driver.run()
    return results, [after - began for began, after in zip(before, _cpu_seconds(), strict=True)]


def _cpu_seconds() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def cores() -> list[int | None]:
    """Return the core of each generator, or None where none is kept free for it."""
    free = sorted(os.sched_getaffinity(0))
    return [None] if len(free) < PINNING_CORES else list(free[-GENERATORS:])


def leave_cores(roots: Sequence[int]) -> None:
    """Keep these processes and all that they have started off the cores of the generators."""
    taken = {core for core in cores() if core is not None}
    if taken:
        keep_to(os.sched_getaffinity(0) - taken, [pid for root in roots for pid in family(root)])


async def run_apart(task: Task, roots: Sequence[int]) -> Run:
    """
    Make one run with generators that have processes of their own; a run with a rate has one.

    Args:
        roots: The processes whose CPU time, and that of their children, is counted.

    Raises:
        GeneratorError: A generator failed.
    """
    chosen = cores() if task.rate is None and task.connections >= GENERATORS else cores()[:1]
    leave_cores(roots)
    run, keys = new_run(), task.target.keys
    results, own = Results(), [0.0, 0.0]
    async with contextlib.AsyncExitStack() as stack:
        children = []
        for number, core in enumerate(chosen):
            part = task._replace(
                # Each begins with another key.
                target=task.target._replace(keys=keys[number:] + keys[:number]),
                run=f"{run}-{number}",
                seed=task.seed + number,
                connections=task.connections // len(chosen) + (number < task.connections % len(chosen)),
                core=core,
            )
            children.append(await stack.enter_async_context(Child(part)))
        for child in children:
            await child.ready()
        before = cpu_times(roots)
        for child in children:
            child.begin()
        for child in children:
            found, used = await child.found()
            results.add(found)
            own = [known + more for known, more in zip(own, used, strict=True)]
        after = cpu_times(roots)
    return {
        "workload": task.workload,
        "connections": task.connections,
        "rate": task.rate,
        **results.figures(),
        "seconds": task.seconds,
        "generators": len(chosen),
        "generator_share": sum(own) / task.seconds / len(chosen),
        "cpu": {**cpu_used(before, after), "generator": own},
    }
