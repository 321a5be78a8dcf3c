"""The relay gives committed events their positions in the feed, and links them into the chain."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from server.store.sessions import COMMAND_TIMEOUT_SECONDS, SESSION_SETTINGS, KeptSession
from server.store.sql import query
from server.telemetry.failpoints import Failpoints
from server.telemetry.metrics import LAG_DIGITS, Sample

# Seconds between two looks: an event is readable some hundredths of a second after its commit. A look that finds
# nothing takes PostgreSQL a tenth of a millisecond; one that finds events takes half a millisecond and 6 us for each.
RELAY_SECONDS: Final = 0.05
# Rows and events that one call relays: a tenth of a second of work, while the rows of the ledgers' heads are locked.
ROWS_MAX: Final = 2_000
EVENTS_MAX: Final = 10_000
# Seconds that closing the connection may take: a server that does not answer has ended it, or will.
CLOSE_SECONDS: Final = 0.5
# Minimum seconds between two looks at the whole outbox, and how many times as long as a look they last: if rows cannot
# be vacuumed yet, during a dump for instance, such a look may take a second. While another session locks rows of a
# ledger, the minimum is `RELAY_SECONDS`: only a look at everything finds the rows that were left.
WHOLE_SECONDS: Final = 10.0
WHOLE_SHARE: Final = 20
# Seconds that a step may take, its commit included.
STEP_SECONDS: Final = 30.0
# Seconds after which the lag of a relay that completes no step grows.
SILENT_SECONDS: Final = 5.0

log = logging.getLogger(__name__)

RELAY_SETTINGS: Final = {
    **SESSION_SETTINGS,
    "application_name": "tallystick-relay",
    "statement_timeout": str(round(STEP_SECONDS * 1000)),
}


class Relay:
    """
    Relays events, as a job. Two relays at once do no harm: each leaves the ledgers of which the other relays events.

    A ledger whose rows another session locks is left too, until they are free; the others do not wait for it.

    What it has seen is true for one connection only: after a crash of the server, ids of transactions are assigned
    again, and a standby may know fewer. So on a new connection it looks at everything.

    Args:
        dsn: Address of the database. It must lead to PostgreSQL itself, as the leader's.

        listeners: Each is called with the ledgers that have new positions.

        failpoints: Where tests inject failures.

    Attributes:
        relayed: Number of events that got their positions.
    """

    name = "the relay"

    def __init__(
        self,
        dsn: str,
        listeners: Sequence[Callable[[Collection[int]], None]] = (),
        failpoints: Failpoints | None = None,
    ) -> None:
        self._session = KeptSession(
            dsn, RELAY_SETTINGS, CLOSE_SECONDS, command_seconds=STEP_SECONDS + COMMAND_TIMEOUT_SECONDS
        )
        self._listeners = listeners
        self._failpoints = failpoints or Failpoints("")
        self.relayed = 0
        # The snapshot of the last look: "0" before the first one, and if more was left.
        self._since = "0"
        self._running: list[str] = []
        # Ledgers that are left until the next look at everything, and since when there are such ledgers.
        self._locked: list[int] = []
        self._locked_since: float | None = None
        # On the clock of `time.monotonic`: when the next look at everything is due, and when the last step was made.
        self._whole_due = 0.0
        self._stepped = time.monotonic()
        self._lag_seconds = 0.0

    @property
    def lag_seconds(self) -> float:
        """Age in seconds of the oldest event that waited at the last look; grows while steps fail or rows are held."""
        now = time.monotonic()
        silent = now - self._stepped
        lag = self._lag_seconds + silent if silent > SILENT_SECONDS else self._lag_seconds
        return lag if self._locked_since is None else max(lag, now - self._locked_since)

    async def step(self) -> float:
        """Relay a bounded number of events that have committed, and return the seconds until the next look."""
        began = time.monotonic()
        if not self._session.is_open or began >= self._whole_due:
            self._since, self._running, self._locked = "0", [], []
            # The ledgers that are left have their turn within this time, even if there is always more to relay.
            self._whole_due = began + WHOLE_SECONDS
        await self._failpoints.reach("relay.before")
        async with self._session.use() as own:
            (row,) = await own.fetch(
                query("outbox_relay"), self._since, self._running, ROWS_MAX, EVENTS_MAX, self._locked
            )
        await self._failpoints.reach("relay.committed")
        if row["whole"] and self._since == "0":
            took = time.monotonic() - began
            self._whole_due = began + max(RELAY_SECONDS if row["locked"] else WHOLE_SECONDS, WHOLE_SHARE * took)
        self._since, self._running, self._locked = row["since"], row["running"], row["locked"]
        self._note_locked(began)
        self._stepped = time.monotonic()
        self._lag_seconds = 0.0
        if row["rows_relayed"]:
            self.relayed += row["events_relayed"]
            self._lag_seconds = max(0.0, (datetime.now(UTC) - row["oldest"]).total_seconds())
            for listener in self._listeners:
                listener(row["ledgers"])
        return RELAY_SECONDS if row["whole"] else 0.0

    def _note_locked(self, now: float) -> None:
        if not self._locked:
            self._locked_since = None
        elif self._locked_since is None:
            self._locked_since = now
            log.warning("events of ledgers wait for rows that another session has locked: %s", self._locked)

    def samples(self) -> Iterator[Sample]:
        """Return the job's metrics."""
        yield Sample("tallystick_events_total", (), self.relayed)
        yield Sample("tallystick_relay_lag_seconds", (), round(self.lag_seconds, LAG_DIGITS))

    async def close(self) -> None:
        """Leave events without a position to the next leader."""
        await self._session.close()
        self._locked_since = None
        self._stepped = time.monotonic()
