"""Lets readers wait for new events, with one look at the database for all of them, however many there are."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from server.events.feed import Event, Feed
from server.ledger.prefixes import Prefixes
from server.store.background import stop
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError

# Seconds between two looks while a reader waits: half of the time between two looks of the relay.
LOOK_SECONDS: Final = 0.025
# The same after a look that failed.
AWAY_SECONDS: Final = 1.0
# Readers of a ledger that are woken at once, and seconds until the next ones are: some seven milliseconds of work, so
# that other requests of this worker are served in between.
WOKEN_MAX: Final = 100
WOKEN_SECONDS: Final = 0.01
# Events between two looks that are read once for all readers that wait for some of them: a page. If there are more,
# these readers read for themselves.
SHARED_MAX: Final = 100

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """Which events a reader wants, and may see."""

    # Of `TYPES`; none means all.
    types: frozenset[str] = frozenset()
    # Only events about this account.
    account: str | None = None
    # Only events about some of these accounts.
    accounts: Prefixes | None = None


class Waiter:
    """
    A reader that waits.

    Attributes:
        position: Up to here there is no event for the reader; moves on while it waits.

        due: Whether the reader is about to be woken.

        woken: Done when the reader is to go on: True if there may be an event for it after that position.
    """

    __slots__ = ("chosen", "due", "position", "woken")

    def __init__(self, position: int, chosen: Chosen) -> None:
        self.position = position
        self.chosen = chosen
        self.due = False
        self.woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def wake(self, *, found: bool = True) -> None:
        """Let the reader go on."""
        if not self.woken.done():
            self.woken.set_result(found)


class _Ledger:
    """A ledger that readers wait for, and its newest position at the last look."""

    __slots__ = ("position", "waiters")

    def __init__(self) -> None:
        self.position = -1
        self.waiters: set[Waiter] = set()


class Heads:
    """
    Finds out when a ledger has new events. While no reader waits it asks nothing.

    A reader that waits for all events is woken by a new position. For readers that wait for some, new events are read
    once and matched here: a thousand readers, each with its own account, cost one page and not a thousand.

    Args:
        feed: Reads the events.

    Attributes:
        draining: Whether readers may no longer wait.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._ledgers: dict[int, _Ledger] = {}
        self._looking: asyncio.Task[None] | None = None
        self.draining = False

    @contextmanager
    def waiting(self, ledger_id: int, position: int, chosen: Chosen) -> Iterator[Waiter]:
        """Yield what wakes a reader of a ledger that has read up to *position*."""
        waiter = Waiter(position, chosen)
        if self.draining:
            waiter.wake(found=False)
            yield waiter
            return
        ledger = self._ledgers.get(ledger_id)
        if ledger is None:
            ledger = self._ledgers[ledger_id] = _Ledger()
        elif ledger.position > position:
            # The reader has read before that look.
            waiter.wake()
        ledger.waiters.add(waiter)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        try:
            yield waiter
        finally:
            ledger.waiters.discard(waiter)

    def at(self, ledger_id: int, position: int) -> bool:
        """Return whether *position* was the newest one at the last look, if a reader waits for the ledger."""
        ledger = self._ledgers.get(ledger_id)
        return ledger is not None and ledger.position == position

    def drain(self) -> None:
        """Wake all readers; from now on none waits."""
        self.draining = True
        for ledger in self._ledgers.values():
            for waiter in ledger.waiters:
                waiter.wake(found=False)

    async def close(self) -> None:
        """Stop looking."""
        await stop(self._looking)

    async def _look_on(self) -> None:
        try:
            while self._ledgers:
                pause = LOOK_SECONDS
                try:
                    await self._look()
                except (StoreError, DatabaseError, QueueFullError):
                    # It was logged where it happened. Readers keep waiting, until their time is over.
                    pause = AWAY_SECONDS
                await asyncio.sleep(pause)
                # By now, readers that were woken and wait again are back.
                self._ledgers = {name: ledger for name, ledger in self._ledgers.items() if ledger.waiters}
        except Exception:
            log.exception("nobody looks for new events: the next one who waits begins again")
        finally:
            self._looking = None

    async def _look(self) -> None:
        heads = await self._feed.heads(list(self._ledgers))
        for ledger_id, head in heads.items():
            ledger = self._ledgers[ledger_id]
            if head == ledger.position:
                continue
            before, ledger.position = ledger.position, head
            due, choosing = [], []
            for waiter in ledger.waiters:
                if waiter.due or waiter.position == head:
                    continue
                # A position past the head comes from before the database was restored.
                if before < 0 or not before <= waiter.position < head or not _chooses(waiter.chosen):
                    due.append(waiter)
                else:
                    choosing.append(waiter)
            if choosing:
                due += await self._told(ledger_id, before, head, choosing)
            _wake(due)

    async def _told(self, ledger_id: int, before: int, head: int, waiters: list[Waiter]) -> list[Waiter]:
        """Return the readers that have an event between two positions, and move the others on."""
        if head - before > SHARED_MAX:
            return waiters
        try:
            page = await self._feed.page(ledger_id, before, SHARED_MAX)
        except (StoreError, DatabaseError, QueueFullError):
            # They read for themselves, and are told what is wrong.
            return waiters
        news = _News(page.events)
        due = []
        for waiter in waiters:
            if page.next_after < head or news.has(waiter.chosen, waiter.position):
                due.append(waiter)
            else:
                waiter.position = head
        return due


class _News:
    """
    Some events, indexed by what readers choose them by.

    Args:
        events: In order.
    """

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._of_types: dict[str, int] = {}
        self._of_accounts: dict[str, list[Event]] = {}
        for event in events:
            self._of_types[event.type] = event.position
            for account in event.accounts:
                self._of_accounts.setdefault(account, []).append(event)

    def has(self, chosen: Chosen, after: int) -> bool:
        """Return whether any of the chosen events is after a position."""
        types, account, accounts = chosen
        if account is None and accounts is None:
            return any(self._of_types.get(name, 0) > after for name in types)
        return any(
            event.position > after
            and (not types or event.type in types)
            and (accounts is None or any(map(accounts.has, event.accounts)))
            for event in (self._events if account is None else self._of_accounts.get(account, ()))
        )


def _wake(waiters: list[Waiter]) -> None:
    """Wake the first readers at once, and the others little by little."""
    loop = asyncio.get_running_loop()
    for number, waiter in enumerate(waiters):
        waiter.due = True
        if number < WOKEN_MAX:
            waiter.wake()
        else:
            loop.call_later(number // WOKEN_MAX * WOKEN_SECONDS, waiter.wake)


def _chooses(chosen: Chosen) -> bool:
    return chosen != Chosen()
