"""What a part needs: how much to measure, servers, a place for its runs, and audits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from loadtests.bench.places import Tallystick
from loadtests.bench.record import Part
from loadtests.databases import Databases, settings_told
from loadtests.openloop.generator import prepare
from loadtests.screen import Screen
from loadtests.servers import own_server

# Connections where only one number of them is measured.
USUAL = 64
# Shares of the peak at which latency is measured.
SHARES = (0.5, 0.7, 0.9)


class Scale(NamedTuple):
    """
    How much a benchmark measures, by default everything. Seconds are those of one run, and of filling all ledgers.
    """

    name: str = "full"
    rounds: int = 3
    seconds: float = 2.5
    connections: tuple[int, ...] = (1, 8, 64, 256, 512)
    # A bulk is five hundred transfers.
    bulk_connections: tuple[int, ...] = (1, 4, 16, 64)
    # Long enough that comparisons with the peak do not show the noise of a busy machine.
    overload_seconds: float = 8.0
    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000, 10_000_000)
    fill_seconds: float = 360.0
    crowds: tuple[int, ...] = (100, 1_000, 10_000)
    crowd_seconds: float = 4.0
    ledgers: tuple[int, ...] = (1, 8, 32, 256)
    keys: tuple[int, ...] = (1, 100, 1_000, 10_000)


FULL = Scale()
QUICK = Scale(
    name="quick",
    rounds=1,
    seconds=1.5,
    connections=(1, 64, 512),
    bulk_connections=(1, 4),
    overload_seconds=1.5,
    sizes=(1_000, 100_000),
    fill_seconds=30.0,
    crowds=(100, 1_000),
    crowd_seconds=2.0,
    ledgers=(1, 8),
    keys=(1, 100),
)


class Work(NamedTuple):
    part: Part
    scale: Scale
    screen: Screen

    def say(self, text: str) -> None:
        self.screen.progress(f"{self.part.name}: {text}")

    def keep(self, **run: object) -> None:
        self.part.runs.append(run)
        rate = run.get("per_second")
        shown = " ".join(str(run[name]) for name in ("side", "workload", "connections", "share") if name in run)
        self.say(shown + (f" {rate:,.0f}/s" if isinstance(rate, float) else ""))

    @asynccontextmanager
    async def tallystick(self, **settings: str) -> AsyncIterator[Tallystick]:
        """Run a server; its books are audited afterwards, however the body ends."""
        self.say("starting a server, warming up")
        async with own_server(**settings) as server:
            target = await prepare(server.url, [await server.create_key("bench")])
            target = target._replace(roots=(server.pid,))
            self.part.settings = settings_told()
            await server.warm(target.keys[0])
            try:
                yield Tallystick(server, Databases(Path(server.settings["data_dir"])), target)
            finally:
                self.say("audit")
                done = await server.audit()
                self.part.audited("tallystick audit", done.code == 0, done.last_line)
