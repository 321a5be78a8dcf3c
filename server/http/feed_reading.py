"""Reading on in the feed for a request, and waiting there for more."""

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
    What the requests that read events have in common.

    Args:
        feed: What they read.

        authenticator: Knows what the key of one who has waited may see by then.

    Attributes:
        heads: Knows when there is more.

        departures: Knows when a client is gone.
    """

    def __init__(self, feed: Feed, authenticator: Authenticator) -> None:
        self.authenticate = authenticator.authenticate
        self.pages = Pages(feed)
        self.heads = Heads(feed)
        self.departures = Departures()

    def open(self, call: Call, limit: int, chosen: Chosen) -> "Reading":
        """Begin to read for a request, *limit* events at a time."""
        return Reading(self, call, limit, chosen)

    async def close(self) -> None:
        """Read no more."""
        await self.heads.close()
        await self.pages.close()


class Reading:
    """
    One request's.

    Attributes:
        after: The position up to which all has been read, or was not chosen.
    """

    def __init__(self, common: Readings, call: Call, limit: int, chosen: Chosen) -> None:
        self._common = common
        self._call = call
        self._limit = limit
        self._chosen = chosen
        self.after = 0

    @property
    def ending(self) -> bool:
        """Whether nobody is to wait any more: the worker ends."""
        return self._common.heads.draining

    async def begin(self, after: int, *, waits: bool = False) -> Page:
        """
        Return the first page, behind the position *after*; errors are those of `read_on`.

        Args:
            waits: Whether it then waits. A crowd that comes back reads nothing where there is known to be nothing.
        """
        self.after = after
        if waits and self._common.heads.at(self._call.ledger_id, after):
            return Page([], [], after, after)
        return await self._read(self._common.pages.read)

    async def read_on(self) -> Page:
        """
        Return the next page.

        Raises:
            Problem: The ledger has no event yet at the position that was read up to.
            QueueFullError, StoreUnavailableError, DatabaseError: It could not be read.
        """
        return await self._read(self._common.pages.share)

    async def wait(self, seconds: float) -> bool:
        """
        Return True when there may be more, False after *seconds* or when nobody is to wait any more.

        Raises:
            ConnectionResetError: The client is gone.
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
        Return whether the key of the request is still good, and sees what it saw when the request began.

        Raises:
            QueueFullError, StoreUnavailableError: It could not be looked up.
        """
        if not self._call.token:
            # An operator of the server needs none.
            return True
        key = await self._common.authenticate(self._call.token)
        return key is not None and key.accounts == self._call.key.accounts

    async def _read(self, read: Callable[[int, int, int, Chosen], Awaitable[Page]]) -> Page:
        page = await read(self._call.ledger_id, self.after, self._limit, self._chosen)
        if page.head < self.after:
            raise not_reached(page.head)
        self.after = page.next_after
        return page
