"""Records requests when they end: durations, spans, and log lines for errors, slow requests and a sample."""

import logging
import time
from bisect import bisect_left
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from server.http.call import Call
from server.telemetry.log_throttle import LogThrottle, milliseconds
from server.telemetry.tallies import SECONDS, Histogram, Tallies
from server.telemetry.trace import Part, read_traceparent

if TYPE_CHECKING:
    from server.telemetry.otel import Traces

# The methods that are counted separately; all others are counted as one.
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"))

log = logging.getLogger(__name__)


class Observer:
    """
    Counts all requests, and logs and traces some of them.

    Args:
        tallies: Holds the counts.

        slow_seconds: Requests that take longer are logged.

        sample: One in so many other requests is logged too; 0 for none.

        traces: Takes the spans; None if tracing is off.
    """

    def __init__(self, tallies: Tallies, slow_seconds: float, sample: int, traces: "Traces | None" = None) -> None:
        self.tallies = tallies
        self._requests = tallies.requests
        self._slow_seconds = slow_seconds
        self._sample = sample
        self._until_sample = sample
        self._traces = traces
        self._lines = LogThrottle(log, "request")

    def ended(self, call: Call, status: int) -> None:
        """Record a request that is answered with *status*."""
        now = time.monotonic()
        seconds = now - call.arrived
        histogram = self._requests.get((call.method, call.route_path, status)) or self._open(call, status)
        # The same as `Histogram.add`, without the cost of a call for every request.
        histogram.counts[bisect_left(SECONDS, seconds)] += 1
        histogram.total += seconds
        if seconds > self._slow_seconds or (status >= 500 and status != HTTPStatus.SERVICE_UNAVAILABLE):
            self._say(call, status, now)
        elif self._sample:
            self._until_sample -= 1
            if self._until_sample <= 0:
                self._until_sample = self._sample
                self._say(call, status, now)
        if self._traces is not None:
            self._trace(self._traces, call, status, now)

    def refused(self, method: str, route: str, status: int, arrived: float) -> None:
        """Count a request that was refused unread: nothing else is known about it."""
        histogram = self._requests.get((method, route, status)) or self._requests.setdefault(
            (method, route, status), Histogram(SECONDS)
        )
        histogram.add(time.monotonic() - arrived)

    def _open(self, call: Call, status: int) -> Histogram:
        return self._requests.setdefault((_method(call), call.route_path, status), Histogram(SECONDS))

    def _say(self, call: Call, status: int, now: float) -> None:
        """Log one line, unless there were too many this second. Of the caller's text, the line holds only ids."""
        if not self._lines.allows(now):
            return
        parent = read_traceparent(call.traceparent)
        # A failure has its own log line, written where it happened.
        self._lines.write(
            {
                "request_id": call.request_id,
                "trace_id": parent.trace_id if parent else None,
                "key_id": call.key.id if call.authenticated else None,
                "method": _method(call),
                "route": call.route_path,
                "status": status,
                "total_ms": milliseconds(now - call.arrived),
                "gate_ms": milliseconds(call.gated - call.arrived) if call.gated else None,
                "lane_ms": milliseconds(call.timing.lane) if call.timing else None,
                "database_ms": milliseconds(call.timing.database) if call.timing else None,
            }
        )

    def _trace(self, traces: "Traces", call: Call, status: int, now: float) -> None:
        """Make the spans of a request if it is to be traced."""
        wanted, parent = traces.wanted(call.traceparent, now)
        if not wanted:
            return
        method, route = _method(call), call.route_path
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "tallystick.request_id": call.request_id,
        }
        if call.authenticated:
            attributes["tallystick.key_id"] = call.key.id
        whole = Part(f"{method} {route}", call.arrived, now)
        traces.add(whole, parent, attributes, _parts(call), failed=status >= 500)


def _method(call: Call) -> str:
    return call.method if call.method in _METHODS else "other"


def _parts(call: Call) -> Iterator[Part]:
    """Return the parts of a request's time that are known: gate, lane and database."""
    if call.gated:
        yield Part("gate", call.arrived, call.gated)
    timing = call.timing
    if timing is not None and timing.database:
        began = (call.gated or call.arrived) + timing.lane
        yield Part("lane", began - timing.lane, began)
        yield Part("database", began, began + timing.database)
