"""What became of attempts is written down: for many endpoints with one statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from server.store.coalescer import Coalescer
from server.store.postgres import Database

# Outcomes written with one statement: some milliseconds of work.
BATCH_MAX: Final = 500
# Events of an endpoint that wait for a retry. With as many as these its position stays where it is: the feed itself
# holds what is behind it.
WAITING_MAX: Final = 1_000


class Outcome(NamedTuple):
    """What became of an attempt, in the order of the arguments of the statement that records it."""

    ledger_id: int
    endpoint_id: UUID
    # Of the endpoint when the attempt was made.
    replay: int
    # Of a first attempt, or of events that are not sent there: the position that the endpoint has come to.
    reached: int | None
    # Of the event; these are None where none was sent.
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
    Writes outcomes down.

    Args:
        database: Where to.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Whoever sends bounds how many wait.
        self._lane: Coalescer[Outcome, bool] = Coalescer(self._write, batch_max=BATCH_MAX, in_flight_max=1)

    async def write(self, outcome: Outcome) -> bool:
        """
        Write an outcome down, and return whether the endpoint has come to the position that it reached.

        Raises:
            StoreError, DatabaseError: It is not known whether it was written.
        """
        return await self._lane.submit(outcome)

    async def drain(self) -> None:
        """Return when all that was to be written has been."""
        await self._lane.drain()

    async def _write(self, outcomes: Sequence[Outcome]) -> list[bool]:
        columns = map(list, zip(*outcomes, strict=True))
        rows = await self._database.write("webhook_attempt_record", *columns, WAITING_MAX)
        return [row["moved"] for row in rows]
