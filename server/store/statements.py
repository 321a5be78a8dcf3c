"""Logs slow statements."""

import logging
import math
import time
from collections.abc import Sized

from server.telemetry.log_throttle import LogThrottle, milliseconds

log = logging.getLogger(__name__)


class Statements:
    """
    Logs statements that took long: their names, never their arguments.

    Args:
        slow_seconds: Statements that take longer are logged.
    """

    def __init__(self, slow_seconds: float = math.inf) -> None:
        self._slow_seconds = slow_seconds
        self._lines = LogThrottle(log, "slow statement")

    def ended(self, name: str, began: float, *, items: int | None = None, rows: Sized | None = None) -> None:
        """
        Record that the named statement has ended, successfully or not.

        Args:
            began: When it began, on the clock of `time.monotonic`, in seconds.

            items: Number of requests that it served.

            rows: The rows that it returned; None if it failed.
        """
        now = time.monotonic()
        seconds = now - began
        if seconds <= self._slow_seconds or not self._lines.allows(now):
            return
        count = None if rows is None else len(rows)
        self._lines.write({"statement": name, "total_ms": milliseconds(seconds), "items": items, "rows": count})
