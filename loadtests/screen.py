"""Shows people the progress and the results of a program."""

import sys
import time

# Seconds between showings of progress: on a terminal, which overwrites them, and elsewhere.
CHANGE_SECONDS, LINE_SECONDS = 0.2, 5.0


class Screen:
    """Shows progress as one line that changes on a terminal, and as a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._next = 0.0

    def progress(self, text: str) -> None:
        """Show progress, unless some was shown shortly before; the next call overwrites it."""
        if time.monotonic() > self._next:
            self._next = time.monotonic() + (CHANGE_SECONDS if self._terminal else LINE_SECONDS)
            print(f"\r\033[K{text}" if self._terminal else f"{text}\n", end="", flush=True)

    def say(self, text: str) -> None:
        print(f"\r\033[K{text}" if self._terminal else text, flush=True)
