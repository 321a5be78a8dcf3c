"""Reads the feed for requests, and waits for new events."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from server.events.feed import Feed
from server.events.heads import Chosen, Heads
from server.events.pages import Page, Pages
from server.gate.keys import Authenticator
from server.http.call import Call
from server.http.problems import not_reached
from server.http.wire.departures import Departures


class Readings:
    """
    The state shared by all requests that read events.

    Args:
        feed: The feed that they read.

        authenticator: Looks up a key again after a wait.

    Attributes:
        heads: Knows when there are new events.

        departures: Ends the wait of a request whose client has gone.
    """

    def __init__(self, feed: Feed, authenticator: Authenticator) -> None:
        self.authenticate = authenticator.authenticate
        self.pages = Pages(feed)
        self.heads = Heads(feed)
        self.departures = Departures()

    def open(self, call: Call, limit: int, chosen: Chosen) -> "Reading":
        """Return a reading for a request, of up to *limit* events at a time."""
        return Reading(self, call, limit, chosen)

    async def close(self) -> None:
        """Stop reading."""
        await self.heads.close()
        await self.pages.close()


class Reading:
    """
    Reads the feed for one request.

    Attributes:
        after: The position up to which the request has read or skipped all events.
    """

    def __init__(self, common: Readings, call: Call, limit: int, chosen: Chosen) -> None:
        self._common = common
        self._call = call
        self._limit = limit
        self._chosen = chosen
        self.after = 0

    @property
    def ending(self) -> bool:
        """Whether requests must stop waiting because the worker ends."""
        return self._common.heads.draining

    async def begin(self, after: int, *, waits: bool = False) -> Page:
        """
        Return the first page after the position *after*; errors are those of `read_on`.

        Args:
            waits: Whether the request waits if the page is empty. Then nothing is read if there is known to be nothing
                new, so that a crowd of clients that reconnects costs no reads.
        """
        self.after = after
        if waits and self._common.heads.at(self._call.ledger_id, after):
            return Page([], [], after, after)
        return await self._read(self._common.pages.read)

    async def read_on(self) -> Page:
        """
        Return the next page.

        Raises:
            Problem: The ledger has not reached the position `after`.
            QueueFullError, StoreUnavailableError, DatabaseError: The page could not be read.
        """
        return await self._read(self._common.pages.share)

    async def wait(self, seconds: float) -> bool:
        """
        Return True once there may be new events, or False after *seconds* or when the worker ends.

        Raises:
            ConnectionResetError: The client has gone.
        """
        common, call = self._common, self._call
        with (
            common.heads.waiting(call.ledger_id, self.after, self._chosen) as waiter,
            common.departures.ending(call.connection, waiter.woken),
        ):
            timer = asyncio.get_running_loop().call_later(seconds, partial(waiter.wake, found=False))
            try:
                found = await waiter.woken
            finally:
                timer.cancel()
        self.after = waiter.position
        return found

    async def allowed(self) -> bool:
        """
        Return whether the key of the request is still good and still sees the same accounts.

        Raises:
            QueueFullError, StoreUnavailableError: The key could not be looked up.
        """
        if not self._call.token:
            # The server's operator has no token.
            return True
        key = await self._common.authenticate(self._call.token)
        return key is not None and key.accounts == self._call.key.accounts

    async def _read(self, read: Callable[[int, int, int, Chosen], Awaitable[Page]]) -> Page:
        page = await read(self._call.ledger_id, self.after, self._limit, self._chosen)
        if page.head < self.after:
            raise not_reached(page.head)
        self.after = page.next_after
        return page
