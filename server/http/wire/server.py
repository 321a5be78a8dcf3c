"""The HTTP server: makes the protocol of each new connection, and counts the connections."""

import asyncio
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from server.http.limits import (
    HEADERS_MAX,
    KEEPALIVE_SECONDS,
    LINGERING_SECONDS,
    READ_BUFFER_BYTES,
    REQUEST_LINE_MAX_BYTES,
)
from server.http.pipeline import Pipeline
from server.http.wire.connection import Connection
from server.http.wire.connections import Connections, connections_max
from server.http.wire.departures import Departures


class HttpServer(web.Server):
    """
    Serves HTTP connections through the pipeline.

    Args:
        pipeline: Answers the requests.

        departures: Ends the wait of a request whose connection is lost.

    Attributes:
        open_connections: The number of open connections, its maximum, and whether they are being drained.
    """

    def __init__(self, pipeline: Pipeline, departures: Departures) -> None:
        self.pipeline = pipeline
        self._departures = departures
        self.open_connections = Connections(connections_max())
        super().__init__(
            _answer,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            max_line_size=REQUEST_LINE_MAX_BYTES,
            max_field_size=REQUEST_LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            read_bufsize=READ_BUFFER_BYTES,
            tcp_keepalive=True,
        )

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return Connection(self, self._loop, self.pipeline, self.open_connections, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection."""
        self.open_connections.count += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Count one connection less, and end the wait of its request."""
        self.open_connections.count -= 1
        self._departures.lost(handler)
        super().connection_lost(handler, exc)


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    return await cast(Connection, request.protocol).answer(request)
