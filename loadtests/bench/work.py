"""What a part has to work with: servers, a place for its runs, and the audits that decide whether they count."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from loadtests.bench.beside import settings_of
from loadtests.bench.places import Tallystick
from loadtests.bench.record import Run
from loadtests.bench.scale import Scale
from loadtests.own_server import own_server, said


class Screen:
    """One line that changes on a terminal, a line a part elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print(("\r\033[K" if self._live else "") + text, flush=True)

    def progress(self, text: str) -> None:
        """Show what is being done."""
        if self._live:
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            print(f"\r\033[K{minutes}:{seconds:02} {text}"[:110], end="", flush=True)


class Audits:
    """What was said of all the books that a part has touched."""

    def __init__(self) -> None:
        self.clean = True
        self.words: list[str] = []

    def note(self, what: str, clean: bool, words: str) -> None:
        """Note what one audit found."""
        self.clean = self.clean and clean
        self.words.append(f"{what}: {words}")


class Work:
    """One part at work."""

    def __init__(self, name: str, scale: Scale, screen: Screen, shared: "Shared") -> None:
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

    @contextmanager
    def tallystick(self, *, alone: bool = False) -> Iterator[Tallystick]:
        """
        A server that reads out of its cache; its books are audited afterwards, however this ends.

        Args:
            alone: It is used by nobody else, at any scale.
        """
        with ExitStack() as stack:
            self.screen.progress(f"{self._name}: starting a server, warming up")
            if alone or self.scale.fresh:
                running = Tallystick(stack.enter_context(own_server()))
            else:
                running = self._shared.tallystick()
            self.settings = settings_of(running.server)
            running.warm()
            try:
                yield running
            finally:
                self.screen.progress(f"{self._name}: audit")
                done = running.server.audit()
                self.audits.note("tallystick audit", done.returncode == 0, said(done).splitlines()[-1])


class Shared:
    """A server that several parts use one after the other, started when the first of them asks."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: Tallystick | None = None

    def tallystick(self) -> Tallystick:
        """Return it."""
        if self._running is None:
            self._running = Tallystick(self._stack.enter_context(own_server()))
        return self._running
