"""What a part has to work with: servers, a place for its runs, and the audits that decide whether they count."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from loadtests.bench.places import Tallystick
from loadtests.bench.record import Part
from loadtests.bench.scale import Scale
from loadtests.databases import Databases, settings_told
from loadtests.openloop.generator import prepare
from loadtests.screen import Screen
from loadtests.servers import own_server


class Work(NamedTuple):
    part: Part
    scale: Scale
    screen: Screen

    def say(self, text: str) -> None:
        self.screen.progress(f"{self.part.name}: {text}")

    def keep(self, **run: object) -> None:
        """Keep a run, and show what it came to."""
        self.part.runs.append(run)
        rate = run.get("per_second")
        shown = " ".join(str(run[name]) for name in ("side", "workload", "connections", "share") if name in run)
        self.say(shown + (f" {rate:,.0f}/s" if isinstance(rate, float) else ""))

    @asynccontextmanager
    async def tallystick(self) -> AsyncIterator[Tallystick]:
        """A server; its books are audited afterwards, however this ends."""
        self.say("starting a server, warming up")
        async with own_server() as server:
            target = await prepare(server.url, [await server.create_key("bench")])
            self.part.settings = settings_told()
            await server.warm(target.keys[0])
            try:
                yield Tallystick(server, Databases(Path(server.settings["data_dir"])), target)
            finally:
                self.say("audit")
                done = await server.audit()
                self.part.audited("tallystick audit", done.code == 0, done.last_line)
