"""Limits the log lines that requests cause."""

import logging
from collections.abc import Mapping
from typing import Final

# Lines of one kind in a second: when everything is slow, the first of them show it.
LINES_PER_SECOND_MAX: Final = 50


class LogThrottle:
    """
    Limits how many log lines of one kind are written in a second.

    Args:
        log: The logger of the lines.

        text: The text of each line.
    """

    def __init__(self, log: logging.Logger, text: str) -> None:
        self._log = log
        self._text = text
        self._second = 0
        self._count = 0
        self._left_out = 0

    def allows(self, now: float) -> bool:
        """Return whether another line may be logged at *now* (of `time.monotonic`); count it as left out if not."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._count = 0
        if self._count >= LINES_PER_SECOND_MAX:
            self._left_out += 1
            return False
        self._count += 1
        return True

    def write(self, fields: Mapping[str, object]) -> None:
        """Log a line that `allows` has allowed, with the fields that have a value and the number of lines left out."""
        shown = {name: value for name, value in fields.items() if value is not None}
        if self._left_out:
            shown["unsaid"] = self._left_out
            self._left_out = 0
        self._log.info(self._text, extra={"fields": shown})


def milliseconds(seconds: float) -> float:
    """Return a duration in milliseconds, rounded as log lines show it."""
    return round(seconds * 1000, 2)
