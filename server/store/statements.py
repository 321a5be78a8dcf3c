"""Statements under their names, and a log line for those that take long."""

import logging
import math
import time
from collections.abc import Sized

import asyncpg

from server.store.sql import query
from server.telemetry.log_throttle import LogThrottle, milliseconds

log = logging.getLogger(__name__)


class Statements:
    """
    Says which statements took long, by their names; never with what they were given.

    Args:
        slow_seconds: Statements that take longer are logged.
    """

    def __init__(self, slow_seconds: float = math.inf) -> None:
        self._slow_seconds = slow_seconds
        self._lines = LogThrottle(log, "slow statement")

    async def run(
        self,
        connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
        name: str,
        *arguments: object,
        timeout: float | None = None,
    ) -> "list[asyncpg.Record]":
        """Return the rows of the named statement; what it raises is the driver's."""
        began, rows = time.monotonic(), None
        try:
            rows = await connection.fetch(query(name), *arguments, timeout=timeout)
            return rows
        finally:
            self.ended(name, began, rows=rows)

    def ended(self, name: str, began: float, *, items: int | None = None, rows: Sized | None = None) -> None:
        """
        Note that the named statement has ended, well or not.

        Args:
            began: When, on the clock of `time.monotonic`, in seconds.

            items: Requests it was about.

            rows: What it returned; None where it failed, or where that says nothing.
        """
        now = time.monotonic()
        seconds = now - began
        if seconds <= self._slow_seconds or not self._lines.allows(now):
            return
        count = None if rows is None else len(rows)
        self._lines.write({"statement": name, "total_ms": milliseconds(seconds), "items": items, "rows": count})
