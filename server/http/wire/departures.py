"""Clients that go away while their request waits for events: the wait ends at once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp.web_protocol import RequestHandler


class Departures:
    """Ends the wait of a request whose connection is lost. A connection serves one request at a time."""

    def __init__(self) -> None:
        self._waiting: dict[RequestHandler, asyncio.Future[Any]] = {}

    @contextmanager
    def ending(self, connection: RequestHandler, waited_for: "asyncio.Future[Any]") -> Iterator[None]:
        """
        Make *waited_for* fail with ConnectionResetError when the connection is lost.

        Raises:
            ConnectionResetError: The connection is lost already.
        """
        if connection.transport is None:
            raise ConnectionResetError
        self._waiting[connection] = waited_for
        try:
            yield
        finally:
            del self._waiting[connection]

    def lost(self, connection: RequestHandler) -> None:
        """End the wait of the connection's request: the connection is lost."""
        waited_for = self._waiting.get(connection)
        if waited_for is not None and not waited_for.done():
            waited_for.set_exception(ConnectionResetError())
