"""A collector of traces that keeps what it receives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.listening import end


class Collector:
    """
    Receives traces and keeps them.

    Attributes:
        url: Its address, in the form of the setting.

        status: The status of its answers.

        open: While it is not set, requests are accepted and never answered.
    """

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.open = asyncio.Event()
        self.open.set()
        self.bodies: list[bytes] = []

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of their arrival."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resources(self) -> set[tuple[str, str]]:
        """The resource attributes of all senders."""
        return {
            (attribute.key, attribute.value.string_value)
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for attribute in resource.resource.attributes
        }

    async def take(self, request: web.Request) -> web.Response:
        """Receive a batch."""
        body = await request.read()
        await self.open.wait()
        if self.status == 200:
            self.bodies.append(body)
        return web.Response(status=self.status)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        collector.open.set()
        await end(runner)


def said(span: Span) -> dict[str, str | int]:
    """Return the attributes of a span."""
    return {attribute.key: attribute.value.string_value or attribute.value.int_value for attribute in span.attributes}
