"""The parts of the benchmark, each with all its rounds."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from loadtests.bench.beside import Beside, beside, own_database_url, own_valkey
from loadtests.bench.fill import fill
from loadtests.bench.places import PEER_AUDIT, PEER_DATABASE, Tallystick, bare, ledgers, peer
from loadtests.bench.record import BenchError
from loadtests.bench.scale import SHARES, USUAL
from loadtests.bench.work import Work
from loadtests.openloop import overload
from loadtests.openloop.children import MARGIN_SECONDS, leave_cores, run_apart
from loadtests.openloop.generator import Task, TooManyFilesError, allow_files
from loadtests.openloop.results import Run
from loadtests.openloop.workloads import BULK_TRANSFERS, Target
from loadtests.process_table import cpu_times, cpu_used, resident_bytes
from loadtests.processes import run_command
from loadtests.servers import tallystick

# What is compared with the peer; it has no bulk.
COMPARED = ("read", "replay", "post", "hot")
# Rows of the plain INSERT below, as many as a bulk of ours, and the clients that send them.
INSERT_ROWS = 500
INSERT_CLIENTS = 4
INSERT_DATABASE = "plain"
PGBENCH_SCALES = (20, 1)
PGBENCH_CLIENTS = 16
# In these all rows of a plain INSERT are different, with keys that grow as those of a busy caller do.
INSERT = """
    INSERT INTO tallystick.transfers (
        ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at, id,
        idempotency_key, fingerprint, kind, source, destination, currency, metadata
    )
    SELECT 1, 1, 1, 1, 1, 1, clock_timestamp(), uuidv7(), uuidv7()::text, sha256(r.a::text::bytea), 'transfer',
           'load:' || r.a, 'load:' || r.a + 1, 'EUR', '{}'::json
    FROM (SELECT (random() * 998)::int AS a FROM generate_series(1, 500)) AS r;
"""
PGBENCH_AUDIT = """
    SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
       AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)
"""
# What is asked of a ledger of each size.
ASKED = ("read", "statement", "post")
# Requests a second of all connections together: little, so that what grows is the number of connections alone.
CROWD_RATE = 1_000.0
# Connections that ask many ledgers, so that each has some.
MANY = 256
MIB = 1024 * 1024


async def closed(work: Work, workload: str, target: Target, roots: list[int], connections: int = USUAL) -> Run:
    """Send requests on each connection as soon as the last one is answered; a bulk counts by its transfers."""
    run = await run_apart(Task(target, workload, connections, work.scale.seconds, settle=False), roots)
    if workload == "bulk":
        run |= {name: run[name] * BULK_TRANSFERS for name in ("good", "answered", "per_second")}
    return run


async def api(work: Work) -> None:
    """Each kind of request, as fast as it is answered, on few and on many connections."""
    scale = work.scale
    plan = [(workload, number) for workload in COMPARED for number in scale.connections]
    plan += [("bulk", number) for number in scale.bulk_connections]
    async with work.tallystick() as running:
        for number in range(scale.rounds):
            for workload, connections in plan:
                run = await closed(work, workload, running.target, [running.server.pid], connections)
                work.keep(side="tallystick", round=number, **run)


class _Side(NamedTuple):
    name: str
    what: str
    measure: Callable[[], Awaitable[Run]]


async def sides(work: Work) -> None:
    """Tallystick and everything that it is compared with, in turns."""
    async with work.tallystick() as running, beside(running.server) as servers:
        work.screen.progress("sides: filling pgbench, starting the peer")
        for size in PGBENCH_SCALES:
            await servers.create_database(f"pgbench{size}")
            await servers.pgbench(f"pgbench{size}", "-i", "-q", "-s", str(size))
        await _make_plain(servers)
        body = await running.body()
        with tempfile.NamedTemporaryFile("w", prefix="tallystick-bench-", suffix=".sql", encoding="utf-8") as script:
            script.write(" ".join(INSERT.split()) + "\n")
            script.flush()
            async with peer(servers) as (other, peer_pid), bare(body) as (nothing, bare_pid):
                databases = [servers.postgres.pid, servers.valkey.pid]
                leave_cores([peer_pid, bare_pid, *databases])
                chosen = _ours_and_theirs(work, running, other, [peer_pid, *databases])
                chosen.append(_Side("bare", "read", partial(closed, work, "bare", nothing, [bare_pid])))
                chosen += _pgbench_sides(work, servers, Path(script.name))
                try:
                    for number in range(work.scale.rounds):
                        for side in chosen:
                            run = await side.measure()
                            work.keep(side=side.name, **{**run, "workload": side.what}, round=number)
                finally:
                    await _audit_others(work, servers)


def _ours_and_theirs(work: Work, ours: Tallystick, other: Target, roots: list[int]) -> list[_Side]:
    found = []
    for what in COMPARED:
        found.append(_Side("tallystick", what, partial(closed, work, what, ours.target, [ours.server.pid])))
        found.append(_Side("peer", what, partial(closed, work, what, other, roots)))
    return found


def _pgbench_sides(work: Work, servers: Beside, script: Path) -> list[_Side]:
    seconds = work.scale.seconds

    async def measure(database: str, rows: int, clients: int, *arguments: str) -> Run:
        before = cpu_times([servers.postgres.pid])
        rate, latency = await servers.pgbench_rate(database, seconds, *arguments, clients=clients)
        used = cpu_used(before, cpu_times([servers.postgres.pid]))
        return {"connections": clients, "seconds": seconds, "per_second": rate * rows, "mean_ms": latency, "cpu": used}

    wide, narrow = (f"pgbench{size}" for size in PGBENCH_SCALES)
    plain = partial(measure, INSERT_DATABASE, INSERT_ROWS, INSERT_CLIENTS, "-f", str(script))
    return [
        _Side("pgbench", "spread", partial(measure, wide, 1, PGBENCH_CLIENTS)),
        _Side("pgbench", "hot", partial(measure, narrow, 1, PGBENCH_CLIENTS)),
        _Side("insert", "rows", plain),
    ]


async def _make_plain(servers: Beside) -> None:
    """Make the service's own tables with all their indexes, for plain rows."""
    await servers.create_database(INSERT_DATABASE)
    done = await tallystick("migrate", settings={"database_url": servers.postgres.url(INSERT_DATABASE)})
    if done.code != 0:
        raise BenchError(f"migrate failed:\n{done.last_lines}")


async def _audit_others(work: Work, servers: Beside) -> None:
    found = [await servers.postgres.ask(f"pgbench{size}", PGBENCH_AUDIT) for size in PGBENCH_SCALES]
    clean = all(rows[0][0] is True for rows in found)
    work.audits.note("pgbench", clean, "sums agree" if clean else "sums differ")
    [[clean]] = await servers.postgres.ask(PEER_DATABASE, PEER_AUDIT)
    work.audits.note("peer", clean, "balances are their transfers" if clean else "balances are not their transfers")


async def open_loop(work: Work) -> None:
    """Latency under a load that does not wait, at shares of the peak."""
    scale = work.scale
    async with work.tallystick() as running:
        roots = [running.server.pid]
        for number in range(scale.rounds):
            for workload in scale.open_workloads:
                peak = (await closed(work, workload, running.target, roots, MANY))["per_second"]
                for share in SHARES:
                    run = await run_apart(Task(running.target, workload, MANY, scale.seconds, share * peak), roots)
                    work.keep(side="tallystick", round=number, share=share, peak=peak, **run)


async def overload_curve(work: Work) -> None:
    """Up to ten times the peak, as `make overload` measures it, on servers of its own."""
    scale = work.scale
    pin = len(os.sched_getaffinity(0)) > 1
    options = overload.Options("post", scale.overload_seconds, factors=scale.factors, pin=pin)
    for number in range(scale.rounds):
        work.screen.progress(f"overload: curve {number + 1} of {scale.rounds}")
        curve, audit = await overload.measure_own(options, work.screen)
        clean = audit.code == 0 and not curve.lies
        work.audits.note("overload", clean, "; ".join([audit.last_line, *curve.lies[:3]]))
        for step in curve.steps:
            work.keep(side="tallystick", workload="post", round=number, **step.figures())


async def generators(work: Work) -> None:
    """The fastest handler there is, asked by this generator and, where it is installed, by wrk."""
    program = shutil.which("wrk")
    async with work.tallystick() as running:
        body = await running.body()
    async with bare(body) as (target, pid):
        for number in range(work.scale.rounds):
            for connections in (USUAL, MANY):
                work.keep(side="ours", round=number, **await closed(work, "bare", target, [pid], connections))
                if program is not None:
                    run = await run_wrk(program, target, connections, work.scale.seconds, [pid])
                    work.keep(side="wrk", round=number, workload="bare", **run)


async def run_wrk(program: str, target: Target, connections: int, seconds: float, roots: list[int]) -> Run:
    """Ask for one address with `wrk`, one thread."""
    command = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"{target.url}/"]
    before, began, started = cpu_times(roots), os.times(), time.perf_counter()
    done = await run_command(command, seconds + MARGIN_SECONDS)
    taken, ended, after = time.perf_counter() - started, os.times(), cpu_times(roots)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.output)
    if done.code != 0 or rate is None or "Non-2xx" in done.output:
        raise BenchError(f"wrk failed: {done.last_lines}")
    own = [ended.children_user - began.children_user, ended.children_system - began.children_system]
    figures = {"connections": connections, "seconds": round(seconds), "per_second": float(rate[1])}
    return {**figures, "generator_share": sum(own) / taken, "cpu": {**cpu_used(before, after), "generator": own}}


async def transfers(work: Work) -> None:
    """The same requests of a ledger with more and more transfers in it."""
    async with work.tallystick(alone=True) as running:
        target, url = running.target, own_database_url(running.server)
        # Both are counted from here on; what is measured in between is bounded by itself.
        left = work.scale.fill_seconds
        for size in work.scale.sizes:
            began = time.monotonic()

            def tell(held: int, size: int = size) -> None:
                work.screen.progress(f"transfers: {held:,} of {size:,}")

            held = await fill(url, target.accounts, size, began + left, tell)
            left -= time.monotonic() - began
            if held < size:
                work.notes.append(f"{size:,} transfers were not reached in {work.scale.fill_seconds:.0f} s.")
                return
            # What SQL has changed, the cache was not told of.
            async with own_valkey(running.server) as client:
                await client.flushall()
            for number in range(work.scale.rounds):
                for workload in ASKED:
                    run = await closed(work, workload, target, [running.server.pid])
                    work.keep(side="tallystick", round=number, transfers=size, held_at_first=held, **run)


async def crowds(work: Work) -> None:
    """The same few requests a second over more and more connections."""
    async with work.tallystick() as running:
        worker = running.server.worker
        for number in range(work.scale.rounds):
            for size in work.scale.crowds:
                try:
                    allow_files(size)
                except TooManyFilesError as error:
                    if number == 0:
                        work.notes.append(f"Not measured: {error}.")
                    continue
                before = resident_bytes(worker)
                task = Task(running.target, "mixed", size, work.scale.crowd_seconds, CROWD_RATE)
                run = await run_apart(task, [running.server.pid])
                memory = (resident_bytes(worker) - before) / MIB
                work.keep(side="tallystick", round=number, memory_mib=memory, **run)


async def many_ledgers(work: Work) -> None:
    """The same number of connections, spread over more and more ledgers."""
    async with work.tallystick() as running:
        for count in work.scale.ledgers:
            work.screen.progress(f"ledgers: making {count}")
            target = await ledgers(running.server, count)
            for number in range(work.scale.rounds):
                for workload in ("read", "post"):
                    run = await closed(work, workload, target, [running.server.pid], MANY)
                    work.keep(side="tallystick", round=number, ledgers=count, **run)
