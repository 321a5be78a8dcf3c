"""
Spans of sampled requests, made with OpenTelemetry when the request has ended, and sent in the background.

This module is imported only if a collector is configured.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from server.telemetry.trace import Parent, Part, read_traceparent
from server.telemetry.version import VERSION

# Requests that are traced in a second at most, whatever callers ask for: at 150 us each, sending included, that is
# 1.5 % of a worker.
TRACED_PER_SECOND_MAX: Final = 100
# Spans that may wait for the collector: those of some 10 s at that rate. Further spans are dropped and counted.
QUEUE_MAX: Final = 4_096
# Spans sent at once, and seconds between two sendings.
BATCH_MAX: Final = 512
SEND_SECONDS: Final = 2.0
# Seconds in which the collector must take a batch, retries included; after that the batch is dropped.
TIMEOUT_SECONDS: Final = 5.0
# Seconds for sending the last spans when the worker ends.
FLUSH_SECONDS: Final = 2.0
# Spans of one request at most: the request, the gate, the lane, the database.
SPANS_A_REQUEST_MAX: Final = 4

_NANOSECONDS: Final = 1_000_000_000

log = logging.getLogger(__name__)


class Traces:
    """
    Makes and sends spans.

    Args:
        endpoint: Address of the collector, for OTLP over HTTP, without `/v1/traces`.

        every: One in this many requests without a `traceparent` is traced; 0 for none.
    """

    def __init__(self, endpoint: str, every: int) -> None:
        self._delivery = _Delivery(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT_SECONDS))
        self._processor = BatchSpanProcessor(
            cast(SpanExporter, self._delivery),
            max_queue_size=QUEUE_MAX,
            schedule_delay_millis=SEND_SECONDS * 1000,
            max_export_batch_size=BATCH_MAX,
        )
        names = {"service.name": "tallystick", "service.version": VERSION}
        # What is traced is decided here, before there is a span.
        provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create(names), shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("tallystick")
        self._every = every
        self._left = every
        self._second = 0
        self._count = 0
        self._made = 0
        # Spans that were not made because of a limit.
        self._refused = 0

    @property
    def sent(self) -> int:
        """Spans that the collector has taken."""
        return self._delivery.sent

    @property
    def dropped(self) -> int:
        """Spans that the collector has not taken, or that were too many."""
        return self._delivery.lost + self._refused

    def wanted(self, traceparent: str, now: float) -> tuple[bool, Parent | None]:
        """Return whether a request that ends at *now* is traced, and its caller's span if it names one."""
        parent = read_traceparent(traceparent) if traceparent else None
        if parent is not None:
            chosen = parent.sampled
        else:
            self._left -= 1
            chosen = self._left == 0
            if self._left <= 0:
                self._left = self._every
        return chosen and self._room(now), parent

    def add(
        self,
        whole: Part,
        parent: Parent | None,
        attributes: Mapping[str, str | int],
        parts: Iterable[Part],
        *,
        failed: bool,
    ) -> None:
        """Make the spans of a request that has ended, and of its parts."""
        offset = time.time_ns() - int(time.monotonic() * _NANOSECONDS)

        def instant(seconds: float) -> int:
            return offset + int(seconds * _NANOSECONDS)

        span = self._tracer.start_span(
            whole.name, _context(parent), SpanKind.SERVER, attributes, start_time=instant(whole.began)
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        within = set_span_in_context(span)
        self._made += 1
        for part in parts:
            self._made += 1
            inner = self._tracer.start_span(part.name, within, start_time=instant(part.began))
            inner.end(instant(part.ended))
        span.end(instant(whole.ended))

    async def close(self) -> None:
        """Send the remaining spans, if the collector takes them in time."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, FLUSH_SECONDS)
        # What is not sent by now is dropped and not tried again.
        self._delivery.shutdown()

    def _room(self, now: float) -> bool:
        if int(now) != self._second:
            self._second = int(now)
            self._count = 0
        waiting = self._made - self._delivery.sent - self._delivery.lost
        if self._count >= TRACED_PER_SECOND_MAX or waiting + SPANS_A_REQUEST_MAX > QUEUE_MAX:
            self._refused += 1
            return False
        self._count += 1
        return True


class _Delivery:
    """
    Counts the spans that the collector takes, and logs when it stops taking them and when it takes them again.

    Args:
        exporter: Sends the spans.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._well = True
        self._ended = False
        self.sent = 0
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            if not self._ended:
                result = self._exporter.export(spans)
        finally:
            well = result is SpanExportResult.SUCCESS
            if well:
                self.sent += len(spans)
            else:
                self.lost += len(spans)
            if well != self._well:
                self._well = well
                said = "spans are delivered again" if well else "the collector does not take spans: they are dropped"
                log.warning(said)
        return result

    def shutdown(self) -> None:
        """End the export in progress; a further call does nothing."""
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()


def _context(parent: Parent | None) -> "Context":
    """Return the context of the caller's span; without one an empty context, which begins a trace."""
    if parent is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote), Context())
