"""The parts that measure what becomes of a rate when there is more of something."""

import time

from redis import Redis

from loadtests.bench.beside import own_database_url, own_valkey
from loadtests.bench.fill import fill
from loadtests.bench.generator import run_closed
from loadtests.bench.open_loop import run_open
from loadtests.bench.scale import USUAL
from loadtests.bench.work import Work
from loadtests.openloop.files import TooManyFilesError, allow_files
from loadtests.own_server import resident_bytes

# What is asked of a ledger of each size.
ASKED = ("read", "statement", "post")
# Requests a second of all connections together: little, so that what grows is the number of connections alone.
CROWD_RATE = 1_000.0
# Connections that ask many ledgers, so that each has some.
LEDGER_CONNECTIONS = 256
MIB = 1024 * 1024


def transfers(work: Work) -> None:
    """The same requests of a ledger with more and more transfers in it."""
    with work.tallystick(alone=True) as running:
        place = running.place
        url = own_database_url(running.server)
        _, socket = own_valkey(running.server)
        # Both are counted from here on; what is measured in between is bounded by itself.
        left = work.scale.fill_seconds
        for size in work.scale.sizes:
            began = time.monotonic()

            def tell(held: int, size: int = size) -> None:
                work.screen.progress(f"transfers: {held:,} of {size:,}")

            held = fill(url, place.accounts, size, began + left, tell)
            left -= time.monotonic() - began
            if held < size:
                work.notes.append(f"{size:,} transfers were not reached in {work.scale.fill_seconds:.0f} s.")
                return
            # What SQL has changed, the cache was not told of.
            with Redis(unix_socket_path=socket, socket_timeout=5) as client:
                client.flushall()
            for number in range(work.scale.rounds):
                for workload in ASKED:
                    run = run_closed(workload, place, USUAL, work.scale.seconds, [running.server.pid])
                    work.keep(side="tallystick", round=number, transfers=size, held_at_first=held, **run)


def crowds(work: Work) -> None:
    """The same few requests a second over more and more connections."""
    with work.tallystick() as running:
        for number in range(work.scale.rounds):
            for size in work.scale.crowds:
                try:
                    allow_files(size)
                except TooManyFilesError as error:
                    if number == 0:
                        work.notes.append(f"Not measured: {error}.")
                    continue
                before = resident_bytes(running.server.worker)
                run = run_open(running, "mixed", CROWD_RATE, work.scale.crowd_seconds, size)
                memory = (resident_bytes(running.server.worker) - before) / MIB
                work.keep(side="tallystick", round=number, memory_mib=memory, **run)


def ledgers(work: Work) -> None:
    """The same number of connections, spread over more and more ledgers."""
    with work.tallystick() as running:
        for count in work.scale.ledgers:
            work.screen.progress(f"ledgers: making {count}")
            place = running.ledgers(count)
            for number in range(work.scale.rounds):
                for workload in ("read", "post"):
                    run = run_closed(workload, place, LEDGER_CONNECTIONS, work.scale.seconds, [running.server.pid])
                    work.keep(side="tallystick", round=number, ledgers=count, **run)
