"""How far a long command is, as a bar on a terminal."""

import shutil
import sys
import time
from typing import Final

from server.process.commands.exits import complain

# Seconds between two states of the bar.
CHANGE_SECONDS: Final = 0.2
BAR_WIDTH: Final = 30


class Bar:
    """
    A line on standard error that fills up, if that is a terminal; elsewhere nothing.

    Args:
        what: Is done.

        beside: Whether standard output shows something else on the same terminal.
    """

    def __init__(self, what: str, *, beside: bool = False) -> None:
        self._what = what
        self._shown = sys.stderr is not None and sys.stderr.isatty() and not beside
        self._began = time.monotonic()
        self._next = self._began
        self._drawn = False

    @property
    def shown(self) -> bool:
        """Whether anybody sees it."""
        return self._shown

    def show(self, part: float, records: int) -> None:
        """Show how much is done, 0 to 1, and how many records that is, if nothing was shown shortly before."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + CHANGE_SECONDS
        part = min(part, 1.0)
        filled = round(part * BAR_WIDTH)
        seconds = now - self._began
        left = f", {seconds / part - seconds:,.0f} s left" if part else ""
        rate = f"{records / seconds:,.0f}/s" if seconds else ""
        text = f"{self._what} [{'#' * filled:{BAR_WIDTH}}] {part:4.0%}  {records:,} records, {rate}{left}"
        # A line that wraps cannot be taken back.
        complain(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="")
        self._drawn = True

    def clear(self) -> None:
        """Take it away."""
        if self._drawn:
            complain("\r\033[K", end="")
            self._drawn = False
