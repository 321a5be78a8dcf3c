"""The handler that streams events: server-sent events, as browsers read them (HTML, section 9.2)."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Final

from server.events.heads import AWAY_SECONDS, Chosen
from server.events.pages import Page
from server.http.amounts import as_strings
from server.http.call import Call
from server.http.feed_reading import Reading, Readings
from server.http.headers import NO_STORE, header
from server.http.parameters import whole_number
from server.http.problems import Problem, invalid
from server.http.query import EventStreamQuery
from server.http.reply import Reply, StreamedReply
from server.http.streams import EventStreams
from server.ledger.limits import PAGE_MAX
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError

EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
# Seconds of silence after which a comment is sent: balancers and clients take a longer silence for a dead connection.
SILENCE_SECONDS: Final = 15.0
# The least and the most seconds that a stream lives: after a deploy all streams reconnect at once to the first worker
# that is up, and this spreads them again.
LIFE_SECONDS: Final = (600.0, 1_200.0)
# The least and the most milliseconds after which a client reconnects: spread, because a worker ends all of its streams
# at once.
RETRY_MS: Final = (250, 1_250)
# Without this, nginx reads ahead of a slow client and writes to its disk.
_UNBUFFERED: Final = header("X-Accel-Buffering", "no")


class EventStreamHandlers:
    """
    The handler of streams of events.

    Args:
        readings: Makes the readings of requests.

        streams: Limits the streams.
    """

    def __init__(self, readings: Readings, streams: EventStreams) -> None:
        self._readings = readings
        self._streams = streams

    async def stream_events(self, call: Call, query: EventStreamQuery) -> Reply:
        """Answer with the events after a position, and then with each new event."""
        after = _resumed(call, query.after)
        reading = self._readings.open(call, PAGE_MAX, Chosen(query.types, query.account, call.key.accounts))
        page = await reading.begin(after)
        pieces = None
        ended = None
        if call.method != "HEAD":
            self._streams.enter(call.ledger_id)
            ended = partial(self._streams.leave, call.ledger_id)
            pieces = self._pieces(call, reading, page, after)
        reply = StreamedReply(pieces, ended, content_type=EVENT_STREAM, headers=NO_STORE + _UNBUFFERED)
        if call.head.amounts_as_strings:
            reply.change(as_strings)
        # The connection ends with the stream, so that the client reconnects, perhaps to another worker.
        reply.keep_alive = False
        return reply

    async def _pieces(
        self, call: Call, reading: Reading, read: Page | None, position: int
    ) -> AsyncGenerator[bytes, None]:
        """
        Make the pieces of a stream, which always ends as a complete answer: its client reconnects.

        Args:
            read: The first page.

            position: The last position that the client knows.
        """
        now = time.monotonic()
        ends = min(now + random.uniform(*LIFE_SECONDS), call.key.ends)  # noqa: S311 -- jitter, not a secret
        spoke = now
        yield b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 -- the same
        more = False
        while True:
            if read is not None:
                if read.events:
                    position = read.events[-1].position
                    yield _blocks(read)
                    spoke = time.monotonic()
                more = read.next_after < read.head
                # Drops the page, so that it takes no memory while the stream waits.
                read = None
            if time.monotonic() - spoke >= SILENCE_SECONDS:
                position = reading.after
                # An id without data makes no event, but clients remember it and continue from there.
                yield b": waiting\nid: %d\n\n" % position
                spoke = time.monotonic()
            if reading.ending or time.monotonic() >= ends:
                break
            try:
                found = more or await reading.wait(max(0.0, min(spoke + SILENCE_SECONDS, ends) - time.monotonic()))
                # After a long wait the key may have ended: then nothing more is sent.
                if not await reading.allowed():
                    break
                if found:
                    began = time.monotonic()
                    read = await reading.read_on()
                    if more:
                        # A stream that is far behind pauses as long as a page took: others get half of the time.
                        await asyncio.sleep(time.monotonic() - began)
            except (StoreError, QueueFullError, DatabaseError):
                # A browser that reconnected now would get a 503 and give up.
                await asyncio.sleep(AWAY_SECONDS)
            except Problem:
                # The database was restored from a copy: the client reconnects and gets the problem.
                break
        if reading.after > position:
            yield b"id: %d\n\n" % reading.after


def _resumed(call: Call, after: int) -> int:
    """
    Return the position after which a stream begins: a client that reconnects names the last one it was sent.

    Raises:
        Problem: The Last-Event-ID is not a position.
    """
    last = call.headers.get("Last-Event-ID")
    if last is None:
        return after
    try:
        return whole_number(last)
    except ValueError as error:
        raise invalid("Last-Event-ID", str(error)) from None


def _blocks(page: Page) -> bytes:
    return b"".join(
        b"id: %d\nevent: %b\ndata: %b\n\n" % (event.position, event.type.encode(), envelope)
        for event, envelope in zip(page.events, page.envelopes, strict=True)
    )
