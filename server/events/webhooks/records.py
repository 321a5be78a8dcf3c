"""Records the outcomes of attempts: those of many endpoints with one statement."""

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
        database: Where to.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # The sender limits how many outcomes wait.
        self._lane: Coalescer[Outcome, bool] = Coalescer(self._write, batch_max=BATCH_MAX, in_flight_max=1)

    async def write(self, outcome: Outcome) -> bool:
        """
        Record an outcome, and return whether the endpoint has moved to the position that it reached.

        Raises:
            StoreError, DatabaseError: It is unknown whether the outcome was recorded.
        """
        return await self._lane.submit(outcome)

    async def drain(self) -> None:
        """Return when every submitted outcome has been recorded."""
        await self._lane.drain()

    async def _write(self, outcomes: Sequence[Outcome]) -> list[bool]:
        columns = map(list, zip(*outcomes, strict=True))
        rows = await self._database.write("webhook_attempt_record", *columns, WAITING_MAX)
        return [row["moved"] for row in rows]
