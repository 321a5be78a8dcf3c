"""The relay gives what has committed its positions in the feed, and links it into the chain."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from server.store.postgres import Database
from server.telemetry.failpoints import Failpoints
from server.telemetry.metrics import LAG_DIGITS, Sample

# Seconds between two looks: what commits is readable some hundredths of a second later. A look that finds nothing takes
# PostgreSQL a tenth of a millisecond, one that finds something half a millisecond and 6 us an event.
RELAY_SECONDS: Final = 0.05
# Rows and events that one call relays: a tenth of a second of work, in which the rows of the ledgers' heads are locked.
ROWS_MAX: Final = 2_000
EVENTS_MAX: Final = 10_000
# Seconds between two looks at the whole outbox. They find what a look at the newest transactions misses where ids of
# transactions have begun anew: another server has taken the place of the one that was asked before.
WHOLE_SECONDS: Final = 10.0


class Relay:
    """
    Relays, as a job. Two relays at once do no harm: they wait for one another at the heads of the ledgers.

    Args:
        database: Where the outbox and the feed are.

        listeners: Each is told which ledgers have new positions.

        failpoints: Where it fails on purpose.

    Attributes:
        relayed: Events that got their positions.

        lag_seconds: The age of the oldest event that waited at the last look.
    """

    name = "the relay"

    def __init__(
        self,
        database: Database,
        listeners: Sequence[Callable[[Collection[int]], None]] = (),
        failpoints: Failpoints | None = None,
    ) -> None:
        self._database = database
        self._listeners = listeners
        self._failpoints = failpoints or Failpoints("")
        self.relayed = 0
        self.lag_seconds = 0.0
        # The snapshot of the last look, and when the next one at everything is due, on the clock of `time.monotonic`.
        self._since = "0"
        self._running: list[str] = []
        self._whole_due = 0.0

    async def step(self) -> float:
        """Relay what has committed since the last step, a bounded number of events, and return when to look again."""
        now = time.monotonic()
        if now >= self._whole_due:
            self._since, self._running = "0", []
        # Should this fail, everything is looked at again.
        due, self._whole_due = self._whole_due, 0.0
        await self._failpoints.reach("relay.before")
        (row,) = await self._database.write("outbox_relay", self._since, self._running, ROWS_MAX, EVENTS_MAX)
        await self._failpoints.reach("relay.committed")
        if row["whole"]:
            self._whole_due = now + WHOLE_SECONDS if self._since == "0" else due
            self._since, self._running = row["since"], row["running"]
        self.lag_seconds = 0.0
        if row["rows_relayed"]:
            self.relayed += row["events_relayed"]
            self.lag_seconds = max(0.0, (datetime.now(UTC) - row["oldest"]).total_seconds())
            for listener in self._listeners:
                listener(row["ledgers"])
        return RELAY_SECONDS if row["whole"] else 0.0

    def samples(self) -> Iterator[Sample]:
        """Return its numbers."""
        yield Sample("tallystick_events_total", (), self.relayed)
        yield Sample("tallystick_relay_lag_seconds", (), round(self.lag_seconds, LAG_DIGITS))

    async def close(self) -> None:
        """Look at everything when this process leads again."""
        self._whole_due = 0.0
