"""The parts that measure rates and latencies, each with all its rounds; growth is in its own module."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from loadtests.bench import cpu
from loadtests.bench.beside import Beside, beside, execute
from loadtests.bench.generator import leave_cores, run_closed, run_wrk
from loadtests.bench.open_loop import run_open
from loadtests.bench.overload import run_overload
from loadtests.bench.places import PEER_AUDIT, PEER_DATABASE, Tallystick, ask, bare, peer
from loadtests.bench.record import BenchError, Run
from loadtests.bench.requests import Place
from loadtests.bench.scale import BULK_TRANSFERS, SHARES, USUAL
from loadtests.bench.work import Work
from loadtests.own_server import find_program, run_command, said

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
MIGRATE_SECONDS_MAX = 60.0


def api(work: Work) -> None:
    """Each kind of request, as fast as it is answered, on few and on many connections."""
    scale = work.scale
    plan = [(workload, number) for workload in COMPARED for number in scale.connections]
    plan += [("bulk", number) for number in scale.bulk_connections]
    with work.tallystick() as running:
        for number in range(scale.rounds):
            for workload, connections in plan:
                run = run_closed(workload, running.place, connections, scale.seconds, [running.server.pid])
                work.keep(side="tallystick", round=number, **_with_transfers(run))


def _with_transfers(run: Run) -> Run:
    """A bulk counts by its transfers."""
    if run["workload"] != "bulk":
        return run
    names = ("good", "answered", "per_second")
    return {**run, **{name: run[name] * BULK_TRANSFERS for name in names}}


class _Side(NamedTuple):
    name: str
    what: str
    measure: Callable[[], Run]


def sides(work: Work) -> None:
    """Tallystick and everything that it is compared with, in turns."""
    with work.tallystick() as running, beside(running.server) as servers:
        _, body = ask(running.place, "GET", f"/v1/accounts/{running.place.accounts[0]}")
        work.screen.progress("sides: filling pgbench, starting the peer")
        for size in PGBENCH_SCALES:
            servers.create_database(f"pgbench{size}")
            servers.pgbench(f"pgbench{size}", "-i", "-q", "-s", str(size))
        _make_plain(servers)
        with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder:
            script = Path(folder) / "insert.sql"
            script.write_text(" ".join(INSERT.split()) + "\n", encoding="utf-8")
            with peer(servers) as (other, peer_pid), bare(body) as (nothing, bare_pid):
                leave_cores([peer_pid, bare_pid, servers.postgres_pid, servers.valkey_pid])
                chosen = _ours_and_theirs(work, running, servers, other, peer_pid)
                chosen.append(_Side("bare", "read", lambda: _closed(work, "bare", nothing, [bare_pid])))
                chosen += _pgbench_sides(work, servers, script)
                try:
                    for number in range(work.scale.rounds):
                        for side in chosen:
                            work.keep(side=side.name, **{**side.measure(), "workload": side.what}, round=number)
                finally:
                    _audit_others(work, servers)


def _closed(work: Work, workload: str, place: Place, roots: list[int]) -> Run:
    return run_closed(workload, place, USUAL, work.scale.seconds, roots)


def _ours_and_theirs(work: Work, ours: Tallystick, servers: Beside, other: Place, peer_pid: int) -> list[_Side]:
    roots = [peer_pid, servers.postgres_pid, servers.valkey_pid]
    found = []
    for what in COMPARED:

        def measure_ours(what: str = what) -> Run:
            return _closed(work, what, ours.place, [ours.server.pid])

        def measure_theirs(what: str = what) -> Run:
            return _closed(work, what, other, roots)

        found += [_Side("tallystick", what, measure_ours), _Side("peer", what, measure_theirs)]
    return found


def _pgbench_sides(work: Work, servers: Beside, script: Path) -> list[_Side]:
    seconds = work.scale.seconds

    def measure(database: str, rows: int, *arguments: str, clients: int) -> Run:
        before = cpu.times([servers.postgres_pid])
        rate, latency = servers.pgbench_rate(database, seconds, *arguments, clients=clients)
        used = cpu.used(before, cpu.times([servers.postgres_pid]))
        return {"connections": clients, "seconds": seconds, "per_second": rate * rows, "mean_ms": latency, "cpu": used}

    wide, narrow = (f"pgbench{size}" for size in PGBENCH_SCALES)
    return [
        _Side("pgbench", "spread", lambda: measure(wide, 1, clients=PGBENCH_CLIENTS)),
        _Side("pgbench", "hot", lambda: measure(narrow, 1, clients=PGBENCH_CLIENTS)),
        _Side(
            "insert",
            "rows",
            lambda: measure(INSERT_DATABASE, INSERT_ROWS, "-f", str(script), clients=INSERT_CLIENTS),
        ),
    ]


def _make_plain(servers: Beside) -> None:
    """Make the service's own tables with all their indexes, for plain rows."""
    servers.create_database(INSERT_DATABASE)
    own = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    own["TALLYSTICK_DATABASE_URL"] = servers.database_url(INSERT_DATABASE)
    done = run_command([str(find_program()), "migrate"], MIGRATE_SECONDS_MAX, own)
    if done.returncode != 0:
        raise BenchError(f"migrate failed:\n{said(done)}")


def _audit_others(work: Work, servers: Beside) -> None:
    sums = [execute(servers.database_url(f"pgbench{size}"), PGBENCH_AUDIT) == [True] for size in PGBENCH_SCALES]
    work.audits.note("pgbench", all(sums), "sums agree" if all(sums) else "sums differ")
    clean = execute(servers.database_url(PEER_DATABASE), PEER_AUDIT) == [True]
    work.audits.note("peer", clean, "balances are their transfers" if clean else "balances are not their transfers")


def open_loop(work: Work) -> None:
    """Latency under a load that does not wait, at shares of the peak."""
    scale = work.scale
    with work.tallystick() as running:
        for number in range(scale.rounds):
            for workload in scale.open_workloads:
                peak = run_closed(workload, running.place, 256, scale.seconds, [running.server.pid])["per_second"]
                for share in SHARES:
                    run = run_open(running, workload, share * peak, scale.seconds, 256)
                    work.keep(side="tallystick", round=number, share=share, peak=peak, **run)


def overload(work: Work) -> None:
    """Up to ten times the peak, as `make overload` measures it, on servers of its own."""
    for number in range(work.scale.rounds):
        work.screen.progress(f"overload: curve {number + 1} of {work.scale.rounds}")
        for run in run_overload(work.scale, work.audits):
            work.keep(side="tallystick", round=number, **run)


def generators(work: Work) -> None:
    """The fastest handler there is, asked by this generator and, where it is installed, by wrk."""
    program = shutil.which("wrk")
    with work.tallystick() as running:
        _, body = ask(running.place, "GET", f"/v1/accounts/{running.place.accounts[0]}")
    with bare(body) as (place, pid):
        for number in range(work.scale.rounds):
            for connections in (USUAL, 256):
                run = run_closed("bare", place, connections, work.scale.seconds, [pid])
                work.keep(side="ours", round=number, **run)
                if program is not None:
                    url = f"http://{place.host}:{place.port}/"
                    run = run_wrk(program, url, connections, work.scale.seconds, [pid])
                    work.keep(side="wrk", round=number, workload="bare", **run)
