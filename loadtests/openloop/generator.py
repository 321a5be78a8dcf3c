"""
A generator: one run against a target, in this process, or in one of its own that another program starts.

As a program it reads what to do as JSON on its standard input, says `ready` on a line when it is connected, begins when
it gets an empty line, and says what came of it as JSON.
"""

import asyncio
import json
import math
import os
import resource
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import uvloop

from loadtests.client import Client, ClientError, address_of
from loadtests.openloop.driver import PATIENCE_SECONDS, Driver
from loadtests.openloop.results import SETTLING_SECONDS, Results
from loadtests.openloop.workloads import PREFIX, Target, requests_of

ACCOUNTS = 1_000
# Seconds that the requests before a run may take in all, and how many of them are under way at once.
FIRST_SECONDS_MAX = 60.0
FIRST_CONNECTIONS = 64
# Files of a process that are no connections.
OTHER_FILES = 128


class TooManyFilesError(Exception):
    """The system does not allow so many connections."""


class Task(NamedTuple):
    """
    One run.

    `rate` is in requests a second, sent at instants that are fixed beforehand; None sends on each connection when it is
    answered. With `settle` what is answered while queues fill does not count for the rate, and nothing is good that is
    answered after PATIENCE_SECONDS. `fates` is how many requests are noted by number. `core` is where a process of its
    own is kept.
    """

    target: Target
    workload: str
    connections: int
    seconds: float
    rate: float | None = None
    seed: int = 1
    run: str = ""
    settle: bool = True
    fates: int = 0
    core: int | None = None


def new_run() -> str:
    """Return a name that no run has had."""
    return uuid.uuid4().hex[:12]


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


async def generate(
    task: Task,
    *,
    tick: Callable[[Results], None] = lambda _: None,
    connected: Callable[[], Awaitable[None]] | None = None,
    done: Callable[[], None] = lambda: None,
) -> Results:
    """
    Make one run and return what came of it.

    Args:
        tick: Called about once a second.

        connected: Awaited between the connections and the first request that counts.

        done: Called before the connections are closed.

    Raises:
        ClientError: A request before the run was not answered well.
    """
    requests = requests_of(task.workload, task.target, task.run or new_run(), task.seed)
    await _send_first(task.target, requests.first)
    results = Results(task.fates, SETTLING_SECONDS if task.settle else 0.0)
    patience = PATIENCE_SECONDS if task.settle else math.inf
    driver = Driver(task.target, requests, task.connections, results, patience)
    try:
        await driver.connect()
        if connected is not None:
            await connected()
        await driver.run(task.rate, task.seconds, task.seed, lambda: tick(results))
        done()
    finally:
        await driver.close()
    return results


async def _send_first(target: Target, first: list[bytes]) -> None:
    async with Client(target.url, "", FIRST_CONNECTIONS) as client, asyncio.timeout(FIRST_SECONDS_MAX):
        for start in range(0, len(first), FIRST_CONNECTIONS):
            sent = (client.send(request) for request in first[start : start + FIRST_CONNECTIONS])
            for answer in await asyncio.gather(*sent):
                if not 200 <= answer.status < 300:
                    raise ClientError(f"a request before the run was answered {answer.status} {answer.body[:200]!r}")


async def _serve(task: Task) -> dict[str, Any]:
    """Do a task for the program that has started this one."""
    before = resource.getrusage(resource.RUSAGE_SELF)

    async def connected() -> None:
        nonlocal before
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        before = resource.getrusage(resource.RUSAGE_SELF)

    results = await generate(task, connected=connected)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"results": results.dump(), "cpu": [after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime]}


def main() -> int:
    """Do what standard input says."""
    told = json.loads(sys.stdin.readline())
    task = Task(**{**told, "target": Target(**told["target"])})
    allow_files(task.connections)
    if task.core is not None:
        os.sched_setaffinity(0, {task.core})
    print(json.dumps(uvloop.run(_serve(task))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
