"""The publisher: a task for each sink, so that a sink that is away delays no other."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from server.events.feed import Feed
from server.events.sinks.make import make_sink
from server.events.sinks.options import Options
from server.events.sinks.publishing import Publishing
from server.events.sinks.sink import Sink
from server.events.sinks.store import Lag, SinkRow, Sinks, more
from server.store.background import stop
from server.store.postgres import Database
from server.telemetry.failpoints import Failpoints
from server.telemetry.metrics import LAG_DIGITS, Sample

# Seconds between two looks at the sinks: an operator's change takes effect within this time.
STEP_SECONDS: Final = 1.0
# Seconds between two looks at what each sink has not been sent: they count how far it is behind, and find events that
# another process has relayed without telling this one.
LOOK_SECONDS: Final = 5.0

OUTCOMES: Final = ("confirmed", "failed", "refused")


class _Running(NamedTuple):
    publishing: Publishing
    task: asyncio.Task[None]


class _Seen(NamedTuple):
    """What the last look at a sink has found, and since when its oldest event has waited, by `time.monotonic`."""

    events: int
    since: float
    halted: bool


class SinkPublisher:
    """
    Sends events to all sinks, as a job. Two publishers at once do no harm: events arrive twice, and positions only
    grow.

    Args:
        database: Holds the sinks.

        feed: Reads the events.

        failpoints: Where tests inject failures.

        make: Makes the client of a broker.
    """

    name = "the publisher"

    def __init__(
        self,
        database: Database,
        feed: Feed,
        failpoints: Failpoints | None = None,
        make: Callable[[Options], Sink] = make_sink,
    ) -> None:
        self._sinks = Sinks(database)
        self._feed = feed
        self._failpoints = failpoints or Failpoints("")
        self._make = make
        self._running: dict[int, _Running] = {}
        self._look_due = 0.0
        # By name.
        self._seen: dict[str, _Seen] = {}
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def tell(self, ledger_ids: Collection[int]) -> None:
        """Take note that ledgers have new events."""
        for running in self._running.values():
            running.publishing.tell(ledger_ids)

    async def step(self) -> float:
        """Start and stop sending as the sinks now say, and look at what they have not been sent."""
        rows = await self._sinks.rows()
        wanted = {row.id: row for row in rows if row.state == "running"}
        over = [
            sink_id
            for sink_id, (publishing, task) in self._running.items()
            if task.done() or sink_id not in wanted or wanted[sink_id].revision != publishing.row.revision
        ]
        await self._end(over)
        for row in wanted.values():
            if row.id not in self._running:
                self._begin(row)
                self._look_due = 0.0
        if time.monotonic() >= self._look_due:
            await self._look(rows)
            self._look_due = time.monotonic() + LOOK_SECONDS
        return STEP_SECONDS

    async def close(self) -> None:
        """Stop sending."""
        await self._end(list(self._running))
        self._seen = {}
        self._look_due = 0.0

    def samples(self) -> Iterator[Sample]:
        """Return the job's metrics."""
        for name, seen in self._seen.items():
            seconds = time.monotonic() - seen.since if seen.events else 0.0
            yield Sample("tallystick_sink_lag_events", (name,), seen.events)
            yield Sample("tallystick_sink_lag_seconds", (name,), round(seconds, LAG_DIGITS))
            yield Sample("tallystick_sink_halted", (name,), int(seen.halted))
            for outcome in OUTCOMES:
                yield Sample("tallystick_sink_events_total", (name, outcome), self._counts[name][outcome])

    def _begin(self, row: SinkRow) -> None:
        counts = self._counts[row.name]
        publishing = Publishing(
            row, self._sinks, self._feed, make=self._make, counts=counts, failpoints=self._failpoints
        )
        self._running[row.id] = _Running(publishing, asyncio.create_task(publishing.run()))

    async def _end(self, sink_ids: Collection[int]) -> None:
        ended = [self._running.pop(sink_id) for sink_id in sink_ids]
        await stop(*(running.task for running in ended))

    async def _look(self, rows: Collection[SinkRow]) -> None:
        """Look at what each sink has not been sent, also at sinks that are paused or halted."""
        seen: dict[str, _Seen] = {}
        for row in rows:
            lag = Lag()
            async for page in self._sinks.behind(row):
                lag = more(lag, page)
                if row.id in self._running:
                    self._running[row.id].publishing.find(page)
            seen[row.name] = _Seen(lag.events, time.monotonic() - lag.seconds, row.state == "halted")
        for name in self._seen.keys() - seen.keys():
            self._counts.pop(name, None)
        self._seen = seen
