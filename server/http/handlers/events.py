"""The handler that reads events, at once or when there are some."""

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
    """Events in order, and the position to read on from."""

    data: list[Envelope]
    next_after: Annotated[Position, Meta(description="For the parameter `after` of the next page.")]


class EventHandlers:
    """
    The handler of pages of events.

    Args:
        readings: Reads for requests.

        waiting: Counts the requests that wait.
    """

    def __init__(self, readings: Readings, waiting: Waiting) -> None:
        self._readings = readings
        self._waiting = waiting

    async def list_events(self, call: Call, query: EventsQuery) -> Reply:
        """Answer with the events behind a position; where there are none, wait for some as long as is asked for."""
        reading = self._readings.open(call, query.limit, Chosen(query.types, query.account, call.key.accounts))
        waits = query.wait > 0 and call.method != "HEAD"
        page = await reading.begin(query.after, waits=waits)
        if page.events or not waits:
            return _reply(page.envelopes, page.next_after)
        # It takes no place while it waits, nor is its time anything that a caller complains of.
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
    """Return the envelopes of the next page that has any; none if there was none in time."""
    deadline = time.monotonic() + seconds
    while not page.events and not reading.ending and (left := deadline - time.monotonic()) > 0:
        if page.next_after >= page.head and not await reading.wait(left):
            break
        if not await reading.allowed():
            # What came is none of its business any more; the next request hears what the key may do.
            break
        page = await reading.read_on()
    return page.envelopes


def _reply(envelopes: list[bytes], next_after: int) -> Reply:
    return Reply(200, b'{"data":[%b],"next_after":%d}' % (b",".join(envelopes), next_after))
