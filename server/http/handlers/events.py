"""The handler of pages of events, which can wait for new events."""

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from server.events.feed import Envelope
from server.events.heads import Chosen
from server.events.pages import Page
from server.http.call import Call
from server.http.feed_reading import Reading, Readings
from server.http.members import Position
from server.http.query import EventsQuery
from server.http.reply import Reply
from server.http.streams import Waiting


class EventsBody(msgspec.Struct, gc=False):
    """Events in order, and the position after which the next page begins."""

    data: list[Envelope]
    next_after: Annotated[Position, Meta(description="Value of the parameter `after` for the next page.")]


class EventHandlers:
    """
    The handler of pages of events.

    Args:
        readings: Makes the readings of requests.

        waiting: Limits the requests that wait.
    """

    def __init__(self, readings: Readings, waiting: Waiting) -> None:
        self._readings = readings
        self._waiting = waiting

    async def list_events(self, call: Call, query: EventsQuery) -> Reply:
        """Answer with the events after a position; if there are none, wait for some as long as the caller asks."""
        reading = self._readings.open(call, query.limit, Chosen(query.types, query.account, call.key.accounts))
        waits = query.wait > 0 and call.method != "HEAD"
        page = await reading.begin(query.after, waits=waits)
        if page.events or not waits:
            return _reply(page.envelopes, page.next_after)
        # The request keeps no place while it waits, and its duration leaves the wait out.
        call.release_place()
        self._waiting.enter(call.ledger_id)
        try:
            envelopes = await _waited(reading, page, query.wait)
        finally:
            self._waiting.leave(call.ledger_id)
            call.arrived = call.gated = time.monotonic()
        reply = _reply(envelopes, reading.after)
        reply.keep_alive = not reading.ending
        return reply


async def _waited(reading: Reading, page: Page, seconds: int) -> list[bytes]:
    """Return the envelopes of the next page that is not empty; none if there is no event in time."""
    deadline = time.monotonic() + seconds
    while not page.events and not reading.ending and (left := deadline - time.monotonic()) > 0:
        if page.next_after >= page.head and not await reading.wait(left):
            break
        if not await reading.allowed():
            # The key may not read these events any more; its next request is refused.
            break
        page = await reading.read_on()
    return page.envelopes


def _reply(envelopes: list[bytes], next_after: int) -> Reply:
    return Reply(200, b'{"data":[%b],"next_after":%d}' % (b",".join(envelopes), next_after))
