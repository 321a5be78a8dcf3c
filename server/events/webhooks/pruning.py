"""Removes old attempts and given up events of webhooks, a little at a time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from server.store.postgres import Database
from server.telemetry.metrics import Sample

# Attempts of an endpoint that are kept, and days for which they are kept.
ATTEMPTS_KEPT: Final = 1_000
ATTEMPT_DAYS: Final = 30
# Days for which an event that was given up is listed. The feed keeps it for ever.
DEAD_DAYS: Final = 90
# Endpoints that one step looks at, and rows that a statement removes: some milliseconds.
ENDPOINTS_PAGE: Final = 20
ROWS_MAX: Final = 500
# Seconds between two steps, and between two rounds.
STEP_SECONDS: Final = 0.1
ROUND_SECONDS: Final = 60.0

_BEGINNING: Final = (0, UUID(int=0))


class WebhookPruning:
    """
    Removes old rows of webhooks, as a job.

    Args:
        database: Holds the rows.
    """

    name = "the pruning of webhooks"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._after = _BEGINNING
        self._removed = 0

    async def step(self) -> float:
        """Prune the rows of some endpoints, and return the seconds until the next step."""
        oldest = _id_at(datetime.now(UTC) - timedelta(days=ATTEMPT_DAYS))
        page = await self._database.read("webhook_endpoint_key_page", *self._after, ENDPOINTS_PAGE)
        for row in page:
            key = tuple(row.values())
            attempts = await self._database.write("webhook_attempt_prune", *key, ATTEMPTS_KEPT, oldest, ROWS_MAX)
            dead = await self._database.write("webhook_dead_prune", *key, DEAD_DAYS, ROWS_MAX)
            self._removed += len(attempts) + len(dead)
            if max(len(attempts), len(dead)) >= ROWS_MAX:
                # There may be more rows of this endpoint.
                return STEP_SECONDS
            self._after = key
        if len(page) < ENDPOINTS_PAGE:
            self._after = _BEGINNING
            return ROUND_SECONDS
        return STEP_SECONDS

    async def close(self) -> None:
        """Start from the beginning when this process leads again."""
        self._after = _BEGINNING

    def samples(self) -> Iterator[Sample]:
        """Return the job's metrics."""
        yield Sample("tallystick_webhook_rows_pruned_total", (), self._removed)


def _id_at(at: datetime) -> UUID:
    """Return the lowest id that an attempt at this instant can have: ids begin with its milliseconds."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
