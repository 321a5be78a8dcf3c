"""`make connections`: ten thousand callers that are connected all the time and ask now and then."""

import argparse
import sys
import uuid

import uvloop
from rich.console import Console

from loadtests.openloop.driver import Driver
from loadtests.openloop.files import allow_files
from loadtests.openloop.results import Results
from loadtests.openloop.target import prepare
from loadtests.openloop.workloads import make
from loadtests.own_server import OwnServer, own_server, resident_bytes, said

CONNECTIONS = 10_000
# Seconds between two requests of one connection, on average.
PAUSE_SECONDS = 10.0
ACCOUNTS = 1_000
KIB = 1024


def main() -> int:
    """Connect, ask, and print what it took; 1 when a request was not answered."""
    parser = argparse.ArgumentParser(prog="make connections", description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    allow_files(arguments.connections)
    with own_server() as server:
        return uvloop.run(_measure(server, arguments))


async def _measure(server: OwnServer, arguments: argparse.Namespace) -> int:
    console = Console()
    target = await prepare(server.url, server.create_key("connections"), ACCOUNTS)
    results = Results(0)
    workload = make("mixed", target, uuid.uuid4().hex[:12], arguments.seed)
    driver = Driver(target, workload, arguments.connections, results)
    before = resident_bytes(server.worker)
    await driver.connect()
    connected = resident_bytes(server.worker)
    console.print(f"{arguments.connections:,} connections are open")
    rate = arguments.connections / PAUSE_SECONDS
    seconds = await driver.run(
        rate, arguments.seconds, arguments.seed, lambda: console.print(f"{results.good:,} of {results.due:,} answered")
    )
    used = resident_bytes(server.worker)
    await driver.close()
    summary = results.summary(seconds)
    audit = server.audit()
    console.print(
        f"{summary.good:,} of {summary.due:,} requests answered at {summary.offered_rate:,.0f}/s,"
        f" p50 {summary.p50} ms, p99 {summary.p99} ms; {summary.broken} connections broken\n"
        f"memory of a connection: {(connected - before) / arguments.connections / KIB:.1f} KiB when open,"
        f" {(used - before) / arguments.connections / KIB:.1f} KiB when used\n"
        f"audit: {said(audit).splitlines()[-1]}"
    )
    return 0 if summary.good == summary.due and not summary.broken and audit.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
