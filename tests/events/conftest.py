"""Fixtures: a ledger's feed, and a relay that runs when a test says so."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from server.books import Books, create_books
from server.events.feed import Event
from server.events.relay import Relay
from server.settings import Settings
from tests.support.service import Service


class Told(NamedTuple):
    """The ledger's data as the background process reads it, with a relay."""

    books: Books
    relay: Relay

    async def ledger_id(self, name: str) -> int:
        """Return the number of a ledger."""
        rows = await self.books.database.read("ledger_by_name", name)
        return int(rows[0]["id"])

    async def relay_all(self) -> None:
        """Relay everything that has committed."""
        while await self.relay.step() == 0.0:
            pass

    async def events(self, ledger: str, **chosen: object) -> list[Event]:
        """Relay, and return a ledger's chosen events; pages are small, so that there are several."""
        await self.relay_all()
        ledger_id, after, found = await self.ledger_id(ledger), 0, []
        while True:
            page = await self.books.feed.page(ledger_id, after, 7, **chosen)  # type: ignore[arg-type]  # by name
            found += page.events
            if page.next_after == page.head:
                return found
            assert page.next_after > after
            after = page.next_after


@pytest.fixture
async def told(service: Service) -> AsyncIterator[Told]:
    """The service's books and a relay."""
    settings = Settings(database_url=service.database_url, redis_url=service.redis_url, redis_timeout_ms=2_000)
    async with create_books(settings) as books:
        told = Told(books, Relay(service.database_url))
        yield told
        await told.relay.close()
