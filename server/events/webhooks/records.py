"""Records the outcomes of attempts: those of many endpoints with one statement."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from server.store.coalescer import Coalescer
from server.store.postgres import Database

# Outcomes in one statement: some milliseconds of work.
BATCH_MAX: Final = 500
# Events of an endpoint that may wait for a retry. With this many, its position stays where it is: the feed itself holds
# the events after it.
WAITING_MAX: Final = 1_000
# Seconds between two attempts to record an outcome while another session has locked the endpoint or the retry: most
# locks are gone by then, and an outcome that waits for long costs little.
HELD_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The outcome of an attempt, in the order of the arguments of the statement that records it."""

    ledger_id: int
    endpoint_id: UUID
    # The endpoint's replay number when the attempt was made.
    replay: int
    # For a first attempt, or for events that are not sent there: the position that the endpoint has reached.
    reached: int | None
    # Position of the event; this and all fields below are None if none was sent.
    position: int | None = None
    attempt: int | None = None
    outcome: str | None = None
    # Seconds until the next attempt.
    due_seconds: float | None = None
    id: UUID | None = None
    type: str | None = None
    attempted_at: datetime | None = None
    duration_ms: int | None = None
    status: int | None = None
    error: str | None = None
    answer: bytes | None = None


class Records:
    """
    Records outcomes.

    Args:
        database: Stores the outcomes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # The sender limits how many outcomes wait.
        self._lane: Coalescer[Outcome, bool | None] = Coalescer(self._write, batch_max=BATCH_MAX, in_flight_max=1)

    async def write(self, outcome: Outcome) -> bool:
        """
        Record an outcome, and return whether the endpoint has moved to the position that it reached.

        While another session has locked rows that it needs, it waits; its caller sends the endpoint nothing meanwhile.

        Raises:
            StoreError, DatabaseError: It is unknown whether the outcome was recorded.
        """
        moved = await self._lane.submit(outcome)
        if moved is None:
            log.warning("an outcome waits for webhook rows of ledger %d that are locked", outcome.ledger_id)
        while moved is None:
            await asyncio.sleep(HELD_SECONDS)
            moved = await self._lane.submit(outcome)
        return moved

    async def drain(self) -> None:
        """Return when every submitted outcome has been recorded."""
        await self._lane.drain()

    async def _write(self, outcomes: Sequence[Outcome]) -> list[bool | None]:
        columns = map(list, zip(*outcomes, strict=True))
        rows = await self._database.write("webhook_attempt_record", *columns, WAITING_MAX)
        return [row["moved"] for row in rows]
