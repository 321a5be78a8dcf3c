"""A worker's numbers, written now and then to where its supervisor reads them."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from server.app import App
from server.process.metrics_folder import HOT_ACCOUNTS_SHOWN, HOT_FILE, HOT_SECONDS
from server.telemetry.metrics import Publisher, Sample
from server.telemetry.tallies import Spread

# Seconds between two writes: a fraction of the shortest interval at which anybody scrapes.
PUBLISH_SECONDS: Final = 1.0
# Seconds between two looks at how late the loop is.
LAG_SECONDS: Final = 0.1


def samples(app: App) -> Iterator[Sample]:
    """Return all that a worker says of itself, but for its busy accounts."""
    tallies = app.tallies
    for (method, path, status), spread in list(tallies.requests.items()):
        yield Sample("tallystick_request_duration_seconds", (method, path, str(status)), spread)
    for code, number in tallies.problems.items():
        yield Sample("tallystick_problems_total", (code,), number)
    for source, number in tallies.replays.items():
        yield Sample("tallystick_replays_total", (source,), number)
    for (by, admitted), number in tallies.decisions.items():
        yield Sample("tallystick_limiter_decisions_total", (by, "admitted" if admitted else "limited"), number)
    for lane, batches in tallies.batches.items():
        yield Sample("tallystick_batch_size", (lane,), batches.sizes)
        yield Sample("tallystick_batch_wait_seconds", (lane,), batches.waits)
    yield Sample("tallystick_loop_lag_seconds", (), tallies.loop_lag)
    if app.traces is not None:
        yield Sample("tallystick_spans_total", ("sent",), app.traces.sent)
        yield Sample("tallystick_spans_total", ("dropped",), app.traces.dropped)
    yield from _cache(app)
    yield from _now(app)


def _cache(app: App) -> Iterator[Sample]:
    counters = app.counters
    for result in ("hit", "miss", "busy"):
        number = {"hit": counters.hits, "miss": counters.misses, "busy": counters.busy}[result]
        yield Sample("tallystick_snapshots_total", (result,), number)
    yield Sample("tallystick_snapshot_fills_total", ("stored",), counters.fills)
    yield Sample("tallystick_snapshot_fills_total", ("lost",), counters.fills_lost)
    yield Sample("tallystick_snapshots_owed_total", (), counters.pending)
    yield Sample("tallystick_invalidations_dropped_total", (), counters.dropped)
    yield Sample("tallystick_self_checks_total", ("right",), counters.checked - counters.stale)
    yield Sample("tallystick_self_checks_total", ("wrong",), counters.stale)


def _now(app: App) -> Iterator[Sample]:
    admission = app.server.pipeline.admission
    waiting_reads, waiting_writes = admission.waiting
    yield Sample("tallystick_breaker_open", ("redis",), int(app.redis.away))
    yield Sample("tallystick_breaker_open", ("postgres",), int(app.database.away))
    yield Sample("tallystick_connections", (), app.server.open_connections.count)
    yield Sample("tallystick_requests_running", ("reads",), admission.reads)
    yield Sample("tallystick_requests_running", ("writes",), admission.writes)
    anonymous = app.server.pipeline.callers.admission
    yield Sample("tallystick_requests_running", ("anonymous",), anonymous.reads)
    yield Sample("tallystick_requests_waiting", ("anonymous",), sum(anonymous.waiting))
    yield Sample("tallystick_requests_waiting", ("reads",), waiting_reads)
    yield Sample("tallystick_requests_waiting", ("writes",), waiting_writes)
    yield Sample("tallystick_overload_refusals_total", (), admission.refused)
    for name, pool in (("posting", app.database.posting_pool), ("reading", app.database.reading_pool)):
        idle = pool.get_idle_size()
        yield Sample("tallystick_pool_connections", (name, "idle"), idle)
        yield Sample("tallystick_pool_connections", (name, "used"), pool.get_size() - idle)


async def publish(app: App, publisher: Publisher) -> None:
    """Publish for as long as the worker runs."""
    lagging = asyncio.create_task(_watch_lag(app.tallies.loop_lag))
    hot_due = time.monotonic() + HOT_SECONDS
    try:
        while True:
            publisher.publish(samples(app))
            if time.monotonic() >= hot_due:
                hot_due = time.monotonic() + HOT_SECONDS
                publisher.publish(_hot(app, publisher.folder, publisher.identity))
            await asyncio.sleep(PUBLISH_SECONDS)
    finally:
        lagging.cancel()
        # What came since the last time.
        publisher.publish(samples(app))


def _hot(app: App, folder: Path, identity: str) -> Iterator[Sample]:
    """Say how busy the busiest accounts have been, and in a file which they are."""
    busiest = app.tallies.hot_accounts.take(HOT_ACCOUNTS_SHOWN)
    listed = [
        {"ledger_id": ledger_id, "account": account, "transfers": number} for (ledger_id, account), number in busiest
    ]
    file = folder / HOT_FILE.format(identity=identity)
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps(listed))
    new.replace(file)
    numbers = [number for _, number in busiest] + [0] * (HOT_ACCOUNTS_SHOWN - len(busiest))
    for rank, number in enumerate(numbers, 1):
        yield Sample("tallystick_hot_account_transfers", (str(rank),), number)


async def _watch_lag(spread: Spread) -> None:
    while True:
        due = time.monotonic() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        spread.add(max(0.0, time.monotonic() - due))
