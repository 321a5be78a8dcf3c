"""The parts of the benchmark, each with all its rounds."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from loadtests.bench.fill import fill, statement
from loadtests.bench.places import PEER_DATABASE, Tallystick, bare, beside, peer, pgbench, transactions
from loadtests.bench.work import SHARES, USUAL, Work
from loadtests.databases import Databases
from loadtests.errors import NotRunError
from loadtests.figures import Run
from loadtests.openloop import overload
from loadtests.openloop.driver import Task
from loadtests.openloop.generator import allow_files, leave_cores, run_apart
from loadtests.openloop.workloads import BULK_TRANSFERS, Target
from loadtests.processes import resident_bytes
from loadtests.servers import tallystick

# What is compared with the peer, which has no bulk.
COMPARED = ("read", "replay", "post", "hot")
# What is compared with pgbench, also on many connections.
POSTED = ("post", "hot")
# Rows of the plain INSERT, as many as a bulk of ours, and the clients that send them.
INSERT_ROWS = 500
INSERT_CLIENTS = 4
INSERT_DATABASE = "plain"
PGBENCH_SCALES = (20, 1)
PGBENCH_CLIENTS = 16
OPEN_WORKLOADS = ("read", "post", "hot")
# Requests that are measured on a ledger of each size.
ASKED = ("read", "statement", "post")
# Requests a second over all connections together: few, so that only the number of connections grows.
CROWD_RATE = 1_000.0
# Connections when there are many ledgers, so that each ledger gets some.
MANY = 256
MIB = 1024 * 1024


class Case(NamedTuple):
    """A kind of run: the fields that identify it, and how to make one."""

    labels: Run
    measure: Callable[[], Awaitable[Run]]


async def in_turns(work: Work, cases: Sequence[Case], base: Case | None = None, figure: str = "per_second") -> None:
    """Make a run of each kind in turn, each right after a run of the base, whose figure is kept beside its own."""
    for number in range(work.scale.rounds):
        for case in cases:
            beside_it = 0.0 if base is None else (await base.measure())[figure]
            run = {"side": "tallystick", **await case.measure(), **case.labels, "round": number}
            more = {} if base is None else {"base": beside_it, "times": run[figure] / max(beside_it, 1e-9)}
            work.keep(**run, **more)


def closed(work: Work, workload: str, target: Target, connections: int = USUAL) -> Awaitable[Run]:
    """Measure connections that each send a request as soon as the last one is answered."""
    return run_apart(Task(target, workload, connections, work.scale.seconds))


async def bulk(work: Work, running: Tallystick, connections: int) -> Run:
    """Measure bulks; their figures count transfers."""
    run = await closed(work, "bulk", running.target, connections)
    return run | {name: run[name] * BULK_TRANSFERS for name in ("good", "answered", "per_second")}


async def api(work: Work) -> None:
    """Measure each kind of request, as fast as it is answered, on few and on many connections."""
    async with work.tallystick() as running:
        ask = partial(closed, work, target=running.target)
        plan = [(workload, number) for workload in COMPARED for number in work.scale.connections]
        cases = [Case({}, partial(ask, workload=workload, connections=number)) for workload, number in plan]
        cases += [Case({}, partial(bulk, work, running, number)) for number in work.scale.bulk_connections]
        await in_turns(work, cases)


async def sides(work: Work) -> None:
    """Measure Tallystick and everything that it is compared with, in turns."""
    async with work.tallystick() as running, beside() as databases, filled(work, databases, *PGBENCH_SCALES):
        # Plain rows go into the service's own tables, with all their indexes.
        await databases.postgres.make(INSERT_DATABASE)
        await tallystick("migrate", settings={"database_url": databases.postgres.url(INSERT_DATABASE)})
        work.say("starting the peer")
        async with peer(databases) as other, bare() as nothing:
            leave_cores([*other.roots, *nothing.roots])
            cases = []
            for what in COMPARED:
                cases.append(Case({}, partial(closed, work, what, running.target)))
                cases.append(Case({"side": "peer"}, partial(closed, work, what, other)))
            cases += [Case({}, partial(closed, work, what, running.target, MANY)) for what in POSTED]
            cases.append(Case({"side": "bare", "workload": "read"}, partial(closed, work, "bare", nothing)))
            cases += _pgbench_cases(work, databases)
            try:
                await in_turns(work, cases)
                peers = {(run["workload"], run["round"]): run for run in work.part.runs if run["side"] == "peer"}
                for run in work.part.runs:
                    if run["side"] == "tallystick" and run["connections"] == USUAL:
                        run["times"] = run["per_second"] / peers[run["workload"], run["round"]]["per_second"]
            finally:
                [[clean]] = await databases.postgres.ask(statement("peer_audit"), name=PEER_DATABASE)
                work.part.audited("peer", clean, f"balances are {'' if clean else 'not '}their transfers")


@asynccontextmanager
async def filled(work: Work, databases: Databases, *sizes: int) -> AsyncIterator[None]:
    """Fill databases for pgbench; afterwards check that their sums agree."""
    work.say("filling pgbench")
    for size in sizes:
        await databases.postgres.make(f"pgbench{size}")
        await pgbench(databases, f"pgbench{size}", "-i", "-q", "-s", str(size))
    try:
        yield
    finally:
        for size in sizes:
            [[clean]] = await databases.postgres.ask(statement("pgbench_audit"), name=f"pgbench{size}")
            words = "sums agree" if clean else "sums differ"
            work.part.audited(f"pgbench, scale {size}", clean is True, words)


def _pgbench_cases(work: Work, databases: Databases) -> list[Case]:
    wide, narrow = (f"pgbench{size}" for size in PGBENCH_SCALES)
    measure = partial(transactions, databases, work.scale.seconds)
    rows = partial(measure, INSERT_DATABASE, INSERT_CLIENTS, rows=INSERT_ROWS, script=statement("insert"))
    return [
        Case({"side": "pgbench", "workload": "spread"}, partial(measure, wide, PGBENCH_CLIENTS)),
        Case({"side": "pgbench", "workload": "one row"}, partial(measure, narrow, PGBENCH_CLIENTS)),
        Case({"side": "insert", "workload": "rows"}, rows),
    ]


async def open_loop(work: Work) -> None:
    """Measure latency under a load that does not wait for answers, at shares of the peak."""
    scale = work.scale
    async with work.tallystick() as running:
        for number in range(scale.rounds):
            for workload in OPEN_WORKLOADS:
                peak = (await closed(work, workload, running.target, MANY))["per_second"]
                for share in SHARES:
                    run = await run_apart(Task(running.target, workload, MANY, scale.seconds, share * peak))
                    work.keep(side="tallystick", round=number, share=share, peak=peak, **run)


async def overload_curve(work: Work) -> None:
    """Measure up to ten times the peak, as `make overload` does, on its own servers."""
    scale = work.scale
    pin = len(os.sched_getaffinity(0)) > 1
    for number in range(scale.rounds):
        work.say(f"curve {number + 1} of {scale.rounds}")
        curve, audit = await overload.measure_own(work.screen, "post", scale.overload_seconds, pin=pin)
        clean = audit.code == 0 and not curve.lies
        work.part.audited("overload", clean, "; ".join([audit.last_line, *curve.lies[:3]]))
        for step in curve.steps:
            work.keep(side="tallystick", workload="post", round=number, **step)


async def generators(work: Work) -> None:
    """
    Measure the fastest possible handler, which shows what the generator itself costs. It has no books to be wrong.
    """
    work.part.audited("bare", True, "nothing to audit")
    async with bare() as target:
        ask = partial(closed, work, "bare", target)
        await in_turns(work, [Case({"side": "ours"}, partial(ask, number)) for number in (USUAL, MANY)])


async def transfers(work: Work) -> None:
    """Measure the same requests on a ledger with more and more transfers in it."""
    async with work.tallystick() as running:
        target, databases = running.target, running.databases
        # The limit covers the filling for all sizes. The runs in between have limits of their own.
        left = work.scale.fill_seconds
        for size in work.scale.sizes:
            work.say(f"filling up to {size:,}")
            began = time.monotonic()
            held = await fill(databases.postgres.url(), target.accounts, size, began + left)
            left -= time.monotonic() - began
            if held < size:
                work.part.notes.append(f"{size:,} transfers were not reached in {work.scale.fill_seconds:.0f} s.")
                return
            # The cache does not know of changes made by SQL.
            await databases.valkey.ask("FLUSHALL")
            labels: Run = {"transfers": size, "held_at_first": held}
            asked = (partial(closed, work, workload, target) for workload in ASKED)
            await in_turns(work, [Case(labels, measure) for measure in asked])


async def crowds(work: Work) -> None:
    """Measure the same few requests a second over more and more connections."""

    async def measure(running: Tallystick, size: int) -> Run:
        before = resident_bytes(running.server.worker)
        task = Task(running.target, "mixed", size, work.scale.crowd_seconds, CROWD_RATE)
        run = await run_apart(task)
        return {**run, "memory_mib": (resident_bytes(running.server.worker) - before) / MIB}

    async with work.tallystick() as running:
        cases = []
        for size in work.scale.crowds:
            try:
                allow_files(size)
            except NotRunError as error:
                work.part.notes.append(f"Not measured: {error}.")
            else:
                cases.append(Case({}, partial(measure, running, size)))
        await in_turns(work, cases)


async def many(work: Work, name: str, workloads: Sequence[str]) -> None:
    """Measure the same requests over more and more ledgers, or API keys of one ledger, beside a single one."""
    sizes: Sequence[int] = getattr(work.scale, name)
    async with work.tallystick() as running:
        ask = partial(closed, work, connections=MANY)
        targets = {}
        for size in sizes:
            work.say(f"making {size:,} {name}")
            targets[size] = await running.spread_over(size if name == "ledgers" else 1, size)
        for workload in workloads:
            base = Case({}, partial(ask, workload=workload, target=running.target))
            cases = [Case({name: size}, partial(ask, workload=workload, target=targets[size])) for size in sizes]
            await in_turns(work, cases, base)


async def many_bulks(work: Work) -> None:
    """Measure bulks of five hundred by more and more callers, beside a single caller."""
    async with work.tallystick() as running:
        base = Case({}, partial(bulk, work, running, 1))
        cases = [Case({}, partial(bulk, work, running, number)) for number in work.scale.bulk_connections]
        await in_turns(work, cases, base)


async def one_caller(work: Work) -> None:
    """Measure one caller who posts one transfer after the other, beside one client of pgbench."""
    [size, *_] = PGBENCH_SCALES
    async with work.tallystick() as running, beside() as databases, filled(work, databases, size):
        base = Case({}, partial(transactions, databases, work.scale.seconds, f"pgbench{size}", 1))
        cases = [Case({}, partial(closed, work, "post", running.target, 1))]
        await in_turns(work, cases, base, "p50")


async def workers(work: Work) -> None:
    """Measure each kind of request on a server with two workers, beside a server with one."""
    async with work.tallystick() as one, work.tallystick(workers="2") as two:
        for workload in COMPARED:
            single, pair = (partial(closed, work, workload, running.target, MANY) for running in (one, two))
            cases = [Case({"workers": 1}, single), Case({"workers": 2}, pair)]
            await in_turns(work, cases, Case({}, single))


PARTS: dict[str, Callable[[Work], Awaitable[None]]] = {
    "api": api,
    "sides": sides,
    "open": open_loop,
    "generator": generators,
    "ledgers": partial(many, name="ledgers", workloads=("post", "read")),
    "keys": partial(many, name="keys", workloads=("read",)),
    "bulk": many_bulks,
    "one": one_caller,
    "workers": workers,
    "connections": crowds,
    "overload": overload_curve,
    "transfers": transfers,
}
