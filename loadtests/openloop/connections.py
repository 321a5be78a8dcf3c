"""`make connections`: ten thousand callers that stay connected and send a request now and then."""

import argparse

from loadtests.errors import FAILED, GOOD
from loadtests.openloop.driver import Driver, Task
from loadtests.openloop.generator import allow_files, prepare
from loadtests.processes import resident_bytes
from loadtests.screen import Screen
from loadtests.servers import own_server

CONNECTIONS = 10_000
# Seconds between two requests of one connection, on average.
PAUSE_SECONDS = 10.0
KIB = 1024


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=30.0)


async def run(arguments: argparse.Namespace) -> int:
    screen, count = Screen(), arguments.connections
    # Set before the server starts, which inherits the limit.
    allow_files(count)
    async with own_server() as server:
        target = await prepare(server.url, [await server.create_key("connections")])
        sizes = [resident_bytes(server.worker)]

        task = Task(target, "mixed", count, arguments.seconds, count / PAUSE_SECONDS)
        async with Driver(task) as driver:
            sizes.append(resident_bytes(server.worker))
            screen.say(f"{count:,} connections are open")
            results = await driver.run()
            sizes.append(resident_bytes(server.worker))
        audit = await server.audit()
    found = results.figures()
    before, opened, used = sizes
    screen.say(
        f"{found['good']:,} of {found['due']:,} requests answered at {found['offered']:,.0f}/s, p50 {found['p50']} ms,"
        f" p99 {found['p99']} ms; {found['broken']} connections broken\n"
        f"memory of a connection: {(opened - before) / count / KIB:.1f} KiB when open,"
        f" {(used - before) / count / KIB:.1f} KiB when used\naudit: {audit.last_line}"
    )
    return GOOD if found["good"] == found["due"] and not found["broken"] and audit.code == 0 else FAILED
