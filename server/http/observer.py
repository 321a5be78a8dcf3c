"""What is noted of a request when it ends: its duration, a log line for errors, slow ones and a sample, and spans."""

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

        traces: Takes their spans; None where nobody wants any.
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
        """Note a request that is answered with *status*; its `arrived` has been stamped."""
        now = time.monotonic()
        seconds = now - call.arrived
        histogram = self._requests.get((call.method, call.route_path, status)) or self._open(call, status)
        # As `Histogram.add` does, without a call on the path of every request.
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
        """Note a request that was refused unread: it is counted, and nothing else is known of it."""
        histogram = self._requests.get((method, route, status)) or self._requests.setdefault(
            (method, route, status), Histogram(SECONDS)
        )
        histogram.add(time.monotonic() - arrived)

    def _open(self, call: Call, status: int) -> Histogram:
        return self._requests.setdefault((_method(call), call.route_path, status), Histogram(SECONDS))

    def _say(self, call: Call, status: int, now: float) -> None:
        """Log one line, unless there have been many this second; nothing in it is of the caller's making but ids."""
        if not self._lines.allows(now):
            return
        parent = read_traceparent(call.traceparent)
        # A failure has been logged where it happened.
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
        """Make the spans of a request, if it is one of those that are traced."""
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
    """Return where a request spent its time, as far as that is known."""
    if call.gated:
        yield Part("gate", call.arrived, call.gated)
    timing = call.timing
    if timing is not None and timing.database:
        began = (call.gated or call.arrived) + timing.lane
        yield Part("lane", began - timing.lane, began)
        yield Part("database", began, began + timing.database)
