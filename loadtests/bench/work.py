"""What a part has to work with: servers, a place for its runs, and the audits that decide whether they count."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from loadtests.bench.beside import settings_of
from loadtests.bench.places import Tallystick
from loadtests.bench.scale import Scale
from loadtests.openloop.results import Run
from loadtests.screen import Screen
from loadtests.servers import own_server


class Audits:
    """What was said of all the books that a part has touched."""

    def __init__(self) -> None:
        self.clean = True
        self.words: list[str] = []

    def note(self, what: str, clean: bool, words: str) -> None:
        """Note what one audit found."""
        self.clean = self.clean and clean
        self.words.append(f"{what}: {words}")


class Shared:
    """A server that several parts use one after the other, started when the first of them asks."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._running: Tallystick | None = None

    async def tallystick(self) -> Tallystick:
        """Return it."""
        if self._running is None:
            self._running = await Tallystick.on(await self._stack.enter_async_context(own_server()))
        return self._running


class Work:
    """One part at work."""

    def __init__(self, name: str, scale: Scale, screen: Screen, shared: Shared) -> None:
        self.scale = scale
        self.audits = Audits()
        self.runs: list[Run] = []
        self.settings = ""
        # What a reader has to know of the figures, in sentences.
        self.notes: list[str] = []
        self.screen = screen
        self._name = name
        self._shared = shared

    def keep(self, **run: object) -> Run:
        """Keep a run, and show what it came to."""
        self.runs.append(run)
        rate = run.get("per_second")
        shown = " ".join(str(run[name]) for name in ("side", "workload", "connections", "share") if name in run)
        self.screen.progress(f"{self._name}: {shown}" + (f" {rate:,.0f}/s" if isinstance(rate, float) else ""))
        return run

    @asynccontextmanager
    async def tallystick(self, *, alone: bool = False) -> AsyncIterator[Tallystick]:
        """
        A server that reads out of its cache; its books are audited afterwards, however this ends.

        Args:
            alone: It is used by nobody else, at any scale.
        """
        async with AsyncExitStack() as stack:
            self.screen.progress(f"{self._name}: starting a server, warming up")
            if alone or self.scale.fresh:
                running = await Tallystick.on(await stack.enter_async_context(own_server()))
            else:
                running = await self._shared.tallystick()
            self.settings = settings_of(running.server)
            await running.warm()
            try:
                yield running
            finally:
                self.screen.progress(f"{self._name}: audit")
                done = await running.server.audit()
                self.audits.note("tallystick audit", done.code == 0, done.last_line)
