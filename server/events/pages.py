"""Pages of the feed as readers are sent them: one read for all readers that want the same page at once."""

import asyncio
from functools import partial
from typing import Final, NamedTuple

from server.events.feed import Event, Feed, envelope
from server.events.heads import Chosen
from server.ledger.prefixes import Prefixes
from server.store.background import stop

# Pages that are read at once for readers that have waited or are sent a stream: the other connections serve readers
# that ask now.
PAGES_MAX: Final = 2
# Bytes of a page: a hundred plain events take a quarter of it; a hundred with all the metadata allowed would take three
# megabytes.
PAGE_BYTES_MAX: Final = 256 * 1024
# Seconds for which a page with events is kept for other readers that have waited for it, since they are woken one after
# the other, and the number of pages that are kept.
KEPT_SECONDS: Final = 1.0
KEPT_MAX: Final = 16


class Page(NamedTuple):
    """Events in order, each with its envelope."""

    events: list[Event]
    envelopes: list[bytes]
    # The position to read on from.
    next_after: int
    # The newest position of the ledger.
    head: int


class _Asked(NamedTuple):
    """The arguments of a read; reads with equal arguments may be shared."""

    ledger_id: int
    after: int
    limit: int
    types: frozenset[str]
    account: str | None
    accounts: Prefixes | None


class Pages:
    """
    Reads pages. Every method may raise what `Feed` does.

    Args:
        feed: Reads the events.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        # The reads in progress, and the pages that are kept.
        self._shared: dict[_Asked, asyncio.Task[Page]] = {}
        self._kept = 0
        self._reading = asyncio.Semaphore(PAGES_MAX)

    async def read(self, ledger_id: int, after: int, limit: int, chosen: Chosen) -> Page:
        """Return up to *limit* events after the position *after*, fewer if they are large."""
        return await self._read(_Asked(ledger_id, after, limit, *chosen))

    async def share(self, ledger_id: int, after: int, limit: int, chosen: Chosen) -> Page:
        """Return the same for a reader that has waited: it is read for several readers, in turn, maybe a moment ago."""
        asked = _Asked(ledger_id, after, limit, *chosen)
        read = self._shared.get(asked)
        if read is None:
            read = self._shared[asked] = asyncio.create_task(self._read_in_turn(asked))
            read.add_done_callback(partial(self._ended, asked))
        return await asyncio.shield(read)

    async def close(self) -> None:
        """Cancel the reads in progress."""
        await stop(*self._shared.values())

    def _ended(self, asked: _Asked, read: asyncio.Task[Page]) -> None:
        # The error is retrieved here, since no reader may be left to retrieve it.
        failed = read.cancelled() or read.exception() is not None
        if failed or not read.result().events or self._kept >= KEPT_MAX:
            del self._shared[asked]
        else:
            self._kept += 1
            asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, asked)

    def _forget(self, asked: _Asked) -> None:
        self._kept -= 1
        del self._shared[asked]

    async def _read_in_turn(self, asked: _Asked) -> Page:
        async with self._reading:
            return await self._read(asked)

    async def _read(self, asked: _Asked) -> Page:
        page = await self._feed.page(
            asked.ledger_id,
            asked.after,
            asked.limit,
            types=asked.types,
            account=asked.account,
            accounts=asked.accounts,
        )
        ledger = await self._feed.ledger_name(asked.ledger_id) if page.events else ""
        envelopes: list[bytes] = []
        size = 0
        for event in page.events:
            shown = envelope(event, ledger)
            size += len(shown)
            if envelopes and size > PAGE_BYTES_MAX:
                events = page.events[: len(envelopes)]
                return Page(events, envelopes, events[-1].position, page.head)
            envelopes.append(shown)
        return Page(page.events, envelopes, page.next_after, page.head)
