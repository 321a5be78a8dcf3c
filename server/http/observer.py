"""What is noted of a request when it ends: its duration, and a log line for errors, slow ones and a sample."""

import logging
import re
import time
from http import HTTPStatus
from typing import Final

from server.http.call import Call
from server.telemetry.tallies import SECONDS, Spread, Tallies

# Log lines a second at most: when everything is slow, the first of them say it.
LINES_PER_SECOND_MAX: Final = 50
# W3C Trace Context: version, trace id, parent id, flags.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

# The methods that are told apart; whatever else a caller makes up is one.
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"))

log = logging.getLogger(__name__)


class Observer:
    """
    Counts requests, and says something of some.

    Args:
        tallies: Where they are counted.

        slow_seconds: Requests that take longer are logged.

        sample: One in so many others is logged too; 0 for none.
    """

    def __init__(self, tallies: Tallies, slow_seconds: float, sample: int) -> None:
        self.tallies = tallies
        self._requests = tallies.requests
        self._slow_seconds = slow_seconds
        self._sample = sample
        self._until_sample = sample
        self._second = 0
        self._lines = 0
        self._unsaid = 0

    def ended(self, call: Call, status: int) -> None:
        """Note a request that is answered with *status*; its `arrived` has been stamped."""
        now = time.monotonic()
        seconds = now - call.arrived
        spread = self._requests.get((call.method, call.route, status)) or self._open(call, status)
        spread.add(seconds)
        if seconds > self._slow_seconds or (status >= 500 and status != HTTPStatus.SERVICE_UNAVAILABLE):
            self._say(call, status, now)
        elif self._sample:
            self._until_sample -= 1
            if self._until_sample <= 0:
                self._until_sample = self._sample
                self._say(call, status, now)

    def _open(self, call: Call, status: int) -> Spread:
        method = call.method if call.method in _METHODS else "other"
        return self._requests.setdefault((method, call.route, status), Spread(SECONDS))

    def _say(self, call: Call, status: int, now: float) -> None:
        """Log one line, unless there have been many this second; nothing in it is of the caller's making but ids."""
        if int(now) != self._second:
            self._second = int(now)
            self._lines = 0
        if self._lines >= LINES_PER_SECOND_MAX:
            self._unsaid += 1
            return
        self._lines += 1
        traced = _TRACEPARENT.fullmatch(call.headers.get("traceparent", ""))
        fields: dict[str, object] = {
            "request_id": call.request_id,
            "trace_id": traced[1] if traced else None,
            "key_id": call.key.id if call.authenticated else None,
            "method": call.method if call.method in _METHODS else "other",
            "route": call.route,
            "status": status,
            "total_ms": _milliseconds(now - call.arrived),
            "gate_ms": _milliseconds(call.gated - call.arrived) if call.gated else None,
            "lane_ms": _milliseconds(call.timing.lane) if call.timing else None,
            "database_ms": _milliseconds(call.timing.database) if call.timing else None,
            "unsaid": self._unsaid or None,
        }
        self._unsaid = 0
        # A failure has been logged where it happened.
        log.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
