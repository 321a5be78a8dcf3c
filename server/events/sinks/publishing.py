"""
Sends to one sink, batch after batch; each batch is confirmed before the next is sent.

A sink's position is stored after the broker has confirmed. Events that were confirmed but not stored are sent again, so
every event arrives, and some more than once. After a failure the next batch is one event, and batches grow from there.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from server.events.feed import Feed, envelope
from server.events.sinks.options import Options
from server.events.sinks.sink import AwayError, Message, RefusedError, Sink
from server.events.sinks.store import Behind, SinkRow, Sinks
from server.store.background import growing_pause
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError
from server.telemetry.failpoints import Failpoints

# Events of one batch: some hundredths of a second of a processor, and one commit for the sink's positions.
EVENTS_MAX: Final = 500
# Bytes of one batch, unless one event alone has more: a broker confirms this well in time.
BYTES_MAX: Final = 4 * 1024 * 1024
# Ledgers of one batch, whose pages are read at once. Ledgers take turns, so one that is far behind delays no other.
LEDGERS_MAX: Final = 16
# Ledgers that may wait for their turn, and ledgers whose positions are remembered: some ten megabytes. The next look at
# all ledgers finds the others.
REMEMBERED_MAX: Final = 100_000
# Seconds before a sink that is away is tried again: short at first, and never so long that events wait for a sink that
# is back.
PAUSE_FIRST_SECONDS: Final = 0.5
PAUSE_MAX_SECONDS: Final = 30.0

# Errors of the database, not of the sink.
PASSING: Final = (StoreError, DatabaseError, QueueFullError)

log = logging.getLogger(__name__)


def pause_seconds(failures: int) -> float:
    """Return the pause after this many failures in a row."""
    return growing_pause(failures, PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS)


class Batch(NamedTuple):
    """The events that are sent together."""

    messages: list[Message]
    # The position that it reaches in each of its ledgers, and the ledgers that have more events.
    ends: dict[int, int]
    unfinished: list[int]


class Publishing:
    """
    Sends to one sink.

    Args:
        row: The sink, as it was when this began.

        sinks: Stores the sink's positions.

        feed: Reads the events.

        make: Makes the client of the sink's broker.

        counts: Counts events by outcome.

        failpoints: Where tests inject failures.

    Attributes:
        halted: Whether the broker has refused an event: nothing more is sent.
    """

    def __init__(
        self,
        row: SinkRow,
        sinks: Sinks,
        feed: Feed,
        *,
        make: Callable[[Options], Sink],
        counts: Counter[str],
        failpoints: Failpoints,
    ) -> None:
        self.row = row
        self._sinks = sinks
        self._feed = feed
        self._make = make
        self._counts = counts
        self._failpoints = failpoints
        self._sink: Sink | None = None
        # Ledgers that have events for the sink, in the order of their turns.
        self._waiting: dict[int, None] = {}
        self._news = asyncio.Event()
        self._positions: dict[int, int] = {}
        # Maximum number of events in the next batch.
        self._most = 1
        self._failing = row.failing_since is not None
        self.halted = False

    def tell(self, ledger_ids: Collection[int]) -> None:
        """Take note that ledgers have new events."""
        if len(self._waiting) >= REMEMBERED_MAX:
            return
        own = self.row.ledger_id
        self._waiting.update(dict.fromkeys(ledger for ledger in ledger_ids if own in (None, ledger)))
        if self._waiting:
            self._news.set()

    def find(self, page: Collection[Behind]) -> None:
        """Take note of ledgers that a look has found, and of the sink's positions there."""
        if len(self._positions) >= REMEMBERED_MAX:
            self._positions.clear()
        for ledger in page:
            # A position that was confirmed since the look began is newer.
            self._positions[ledger.ledger_id] = max(self._positions.get(ledger.ledger_id, 0), ledger.position)
        self.tell([ledger.ledger_id for ledger in page])

    async def run(self) -> None:
        """Send until the task is cancelled, or the sink is halted."""
        failures = 0
        try:
            while not self.halted:
                await self._news.wait()
                try:
                    await self._send_next()
                    failures = 0
                    continue
                except AwayError as error:
                    await self._note_failure(str(error))
                except PASSING as error:
                    log.warning("the sink %s waits for the database: %s", self.row.name, error)
                except Exception as error:
                    if not self._failing:
                        log.exception("sending to the sink %s failed", self.row.name)
                    await self._note_failure(f"a fault: {type(error).__name__}")
                failures += 1
                self._most = 1
                await self._close()
                await asyncio.sleep(pause_seconds(failures))
        finally:
            await self._close()

    async def _send_next(self) -> None:
        """Send a batch and store the sink's new positions."""
        chosen = [ledger for ledger, _ in zip(self._waiting, range(min(LEDGERS_MAX, self._most)), strict=False)]
        for ledger in chosen:
            del self._waiting[ledger]
        if not self._waiting:
            self._news.clear()
        try:
            if self._sink is None:
                self._sink = self._make(self.row.read_options())
                await self._sink.open()
            batch = await self._read(chosen)
            await self._failpoints.reach("sinks.before_batch")
            if batch.messages and not await self._confirmed(self._sink, batch):
                self.tell(chosen)
                return
            await self._failpoints.reach("sinks.confirmed")
            await self._sinks.store(self.row.id, batch.ends)
            await self._failpoints.reach("sinks.stored")
        except BaseException:
            self.tell(chosen)
            raise
        self._positions.update(batch.ends)
        self.tell(batch.unfinished)
        self._most = min(EVENTS_MAX, 2 * self._most)
        if self._failing and batch.messages:
            await self._sinks.note_success(self.row)
            self._failing = False
            log.info("the sink %s goes on", self.row.name)

    async def _confirmed(self, sink: Sink, batch: Batch) -> bool:
        """Send a batch; return False if an event was refused, which must still be found or has halted the sink."""
        try:
            await sink.send(batch.messages)
        except AwayError:
            self._counts["failed"] += len(batch.messages)
            raise
        except RefusedError as error:
            await self._close()
            if len(batch.messages) == 1:
                self._counts["refused"] += 1
                await self._halt(batch, str(error))
            else:
                self._counts["failed"] += len(batch.messages)
            self._most = 1
            return False
        self._counts["confirmed"] += len(batch.messages)
        return True

    async def _read(self, ledgers: Collection[int]) -> Batch:
        """Read the next events of these ledgers, in equal shares."""
        unknown = [ledger for ledger in ledgers if ledger not in self._positions]
        if unknown:
            self._positions.update(await self._sinks.positions(self.row.id, unknown))
        share = self._most // len(ledgers)
        pages = await asyncio.gather(*(self._feed.page(ledger, self._positions[ledger], share) for ledger in ledgers))
        batch = Batch([], {}, [])
        size = 0
        for ledger, page in zip(ledgers, pages, strict=True):
            name = await self._feed.ledger_name(ledger)
            batch.ends[ledger] = page.next_after
            for event in page.events:
                body = envelope(event, name)
                size += len(body)
                if size > BYTES_MAX and batch.messages:
                    batch.ends[ledger] = event.position - 1
                    break
                batch.messages.append(Message(name, event, body))
            if batch.ends[ledger] < page.head:
                batch.unfinished.append(ledger)
        return batch

    async def _halt(self, batch: Batch, text: str) -> None:
        [ledger_id], [message] = batch.ends, batch.messages
        log.error("the sink %s is halted: its broker refuses the event %s: %s", self.row.name, message.id, text)
        await self._sinks.halt(self.row, ledger_id, message.event.position, text)
        self.halted = True

    async def _note_failure(self, text: str) -> None:
        if not self._failing:
            log.warning("the sink %s is held up: %s", self.row.name, text)
        self._failing = True
        try:
            await self._sinks.note_failure(self.row, text)
        except PASSING as error:
            log.warning("the sink %s waits for the database: %s", self.row.name, error)

    async def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.close()
