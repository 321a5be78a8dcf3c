"""Shows the progress of a long command as a bar on a terminal."""

import shutil
import sys
import time
from typing import Final

from server.process.commands.exits import complain

# Least seconds between two updates of the bar.
CHANGE_SECONDS: Final = 0.2
BAR_WIDTH: Final = 30


class Bar:
    """
    A progress bar on standard error; shows nothing if that is not a terminal.

    Args:
        what: The word for what is being done.

        beside: Whether standard output shows something else on the same terminal; then nothing is shown.
    """

    def __init__(self, what: str, *, beside: bool = False) -> None:
        self._what = what
        self._shown = sys.stderr is not None and sys.stderr.isatty() and not beside
        self._began = time.monotonic()
        self._next = self._began
        self._drawn = False

    @property
    def shown(self) -> bool:
        """Whether the bar is shown at all."""
        return self._shown

    def show(self, part: float, records: int) -> None:
        """Show the part done, from 0 to 1, and the number of records, unless the last update was very recent."""
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
        # A line that wraps could not be removed.
        complain(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="")
        self._drawn = True

    def clear(self) -> None:
        """Remove the bar."""
        if self._drawn:
            complain("\r\033[K", end="")
            self._drawn = False
