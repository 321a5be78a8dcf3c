"""What a part has to work with: servers, a place for its runs, and the audits that decide whether they count."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from loadtests.bench.places import Tallystick
from loadtests.bench.scale import Scale
from loadtests.databases import settings_told
from loadtests.figures import Run
from loadtests.screen import Screen
from loadtests.servers import own_server


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
    """
    One part at work.

    Attributes:
        audits: The result of each audit, in words.

        clean: Whether all of them were right.

        notes: What a reader has to know of the figures, in sentences.
    """

    def __init__(self, name: str, scale: Scale, screen: Screen, shared: Shared) -> None:
        self.name = name
        self.scale = scale
        self.screen = screen
        self.audits: list[str] = []
        self.clean = True
        self.runs: list[Run] = []
        self.settings = ""
        self.notes: list[str] = []
        self._shared = shared

    def say(self, text: str) -> None:
        """Show how far it is."""
        self.screen.progress(f"{self.name}: {text}")

    def audited(self, what: str, clean: bool, words: str) -> None:
        """Note what one audit found."""
        self.clean = self.clean and clean
        self.audits.append(f"{what}: {words}")

    def keep(self, **run: object) -> None:
        """Keep a run, and show what it came to."""
        self.runs.append(run)
        rate = run.get("per_second")
        shown = " ".join(str(run[name]) for name in ("side", "workload", "connections", "share") if name in run)
        self.say(shown + (f" {rate:,.0f}/s" if isinstance(rate, float) else ""))

    @asynccontextmanager
    async def tallystick(self, *, alone: bool = False) -> AsyncIterator[Tallystick]:
        """
        A server that reads out of its cache; its books are audited afterwards, however this ends.

        Args:
            alone: It is used by nobody else, at any scale.
        """
        async with AsyncExitStack() as stack:
            self.say("starting a server, warming up")
            if alone or self.scale.fresh:
                running = await Tallystick.on(await stack.enter_async_context(own_server()))
            else:
                running = await self._shared.tallystick()
            self.settings = settings_told()
            await running.warm()
            try:
                yield running
            finally:
                self.say("audit")
                done = await running.server.audit()
                self.audited("tallystick audit", done.code == 0, done.last_line)
