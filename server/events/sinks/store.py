"""Sinks in the database: how they are reached, their state, and their positions."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from server.events.sinks.options import KINDS, Options
from server.store.errors import ConstraintError, DuplicateError
from server.store.postgres import Database

# Maximum number of sinks: each takes a connection of the background process, and a look at the ledgers every few
# seconds.
SINKS_MAX: Final = 32
# Ledgers that one statement looks at.
LEDGERS_PAGE: Final = 1_000


class SinkError(Exception):
    """A request of an operator cannot be met; the message says why."""


class SinkRow(NamedTuple):
    """A sink; the fields are the columns of `sink_list`."""

    id: int
    name: str
    kind: str
    # None stands for all ledgers.
    ledger_id: int | None
    ledger: str | None
    options: str
    state: str
    revision: int
    created_at: datetime
    failing_since: datetime | None
    error: str | None
    error_at: datetime | None
    refused_ledger: str | None
    refused_position: int | None

    def read_options(self) -> Options:
        """
        Return how to reach the sink's broker.

        Raises:
            ValueError: A newer version of this program has made the options.
        """
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind {self.kind}")
        return msgspec.json.decode(self.options, type=KINDS[self.kind])


class Behind(NamedTuple):
    """A ledger that has events for a sink."""

    ledger_id: int
    position: int
    head: int
    # Age of the first of them, in seconds.
    seconds: float


class Lag(NamedTuple):
    """How far a sink is behind: events that it has not been sent, and the age of the oldest in seconds."""

    events: int = 0
    seconds: float = 0.0


class Refused(NamedTuple):
    """An event that a broker refuses."""

    ledger: str
    position: int


class Sinks:
    """
    Stores sinks. Every method may raise StoreError, QueueFullError or DatabaseError.

    Args:
        database: Holds the sinks.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, kind: str, ledger_id: int | None, options: Options, *, from_now: bool) -> None:
        """
        Create a sink.

        Args:
            from_now: Whether it begins after the events so far, and not with the first event.

        Raises:
            SinkError: There is a sink of that name, or there are too many.
        """
        text = msgspec.json.encode(options).decode()
        try:
            made = await self._database.write_once("sink_create", name, kind, ledger_id, text, from_now, SINKS_MAX)
        except DuplicateError:
            raise SinkError(f"there is a sink {name}") from None
        if not made:
            raise SinkError(f"there are {SINKS_MAX} sinks, and no more are taken")

    async def rows(self) -> list[SinkRow]:
        """Return all sinks by name."""
        return [SinkRow._make(row) for row in await self._database.read("sink_list")]

    async def pause(self, name: str) -> str | None:
        """Stop sending to a sink and return its state; None if there is no such sink."""
        rows = await self._database.write("sink_pause", name)
        return rows[0]["state"] if rows else None

    async def resume(self, name: str, *, skip: bool) -> tuple[str, Refused | None] | None:
        """
        Send events to a sink again. Return its state before, with the event that had halted it; None if there is no
        such sink.

        Args:
            skip: Whether to leave that event out.
        """
        rows = await self._database.write_once("sink_resume", name, skip)
        if not rows:
            return None
        state, ledger, position = rows[0]
        return state, None if position is None else Refused(ledger, position)

    async def delete(self, name: str) -> bool:
        """Remove a sink; return whether there was one."""
        return bool(await self._database.write_once("sink_delete", name))

    async def behind(self, row: SinkRow) -> AsyncIterator[list[Behind]]:
        """Yield the ledgers that have events for a sink, page by page."""
        after, full = 0, True
        while full:
            found = await self._database.read("sink_behind_page", row.id, row.ledger_id, after, LEDGERS_PAGE)
            page = [Behind._make(ledger) for ledger in found]
            yield page
            full = len(page) == LEDGERS_PAGE
            after = page[-1].ledger_id if page else after

    async def lag(self, row: SinkRow) -> Lag:
        """Return how far a sink is behind."""
        lag = Lag()
        async for page in self.behind(row):
            lag = more(lag, page)
        return lag

    async def positions(self, sink_id: int, ledger_ids: Sequence[int]) -> dict[int, int]:
        """Return a sink's position in each of these ledgers."""
        rows = await self._database.read("sink_position_list", sink_id, ledger_ids)
        return {**dict.fromkeys(ledger_ids, 0), **{row["ledger_id"]: row["position"] for row in rows}}

    async def store(self, sink_id: int, positions: Mapping[int, int]) -> None:
        """Store a sink's positions."""
        try:
            await self._database.write("sink_position_store", sink_id, list(positions), list(positions.values()))
        except ConstraintError:
            # The sink was removed at this moment.
            return

    async def note_failure(self, row: SinkRow, text: str) -> None:
        """Record why nothing can be sent."""
        await self._database.write("sink_failed", row.id, row.revision, text)

    async def note_success(self, row: SinkRow) -> None:
        """Record that events are sent again."""
        await self._database.write("sink_works", row.id)

    async def halt(self, row: SinkRow, ledger_id: int, position: int, text: str) -> None:
        """Stop sending to a sink until an operator has decided about an event that its broker refuses."""
        await self._database.write("sink_halt", row.id, row.revision, ledger_id, position, text)


def more(lag: Lag, page: Sequence[Behind]) -> Lag:
    """Return a lag, with that of further ledgers added."""
    return Lag(
        lag.events + sum(ledger.head - ledger.position for ledger in page),
        max([lag.seconds, *(ledger.seconds for ledger in page)]),
    )
