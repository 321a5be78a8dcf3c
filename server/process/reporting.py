"""How workers and the background process report metrics to the supervisor once a second, outside the request path."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from server.process.channel import BusyKey, Channel, Hot, HotAccount
from server.process.reporter import Reporter, values_of
from server.store.cache_counters import CacheCounters
from server.telemetry.metrics import METRICS, Sample
from server.telemetry.tallies import Histogram

if TYPE_CHECKING:
    # The background process does not load it.
    from server.app import App

# Seconds between two reports. A process that crashes loses what it has counted since its last report.
REPORT_SECONDS: Final = 1.0
# Seconds over which busy accounts and API keys are counted, and how many of them are reported.
HOT_SECONDS: Final = 10.0
HOT_ACCOUNTS_REPORTED: Final = 10
BUSY_KEYS_REPORTED: Final = 10
# Seconds between two measurements of the event loop's lag.
LAG_SECONDS: Final = 0.1


def samples(app: "App") -> Iterator[Sample]:
    """Return all metrics of a worker except those of its busiest accounts."""
    tallies = app.tallies
    for (method, path, status), histogram in list(tallies.requests.items()):
        yield Sample("tallystick_request_duration_seconds", (method, path, str(status)), histogram)
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
    yield from _cache(app.counters)
    yield from _now(app)


def _cache(counters: CacheCounters) -> Iterator[Sample]:
    for result in ("hit", "miss", "busy"):
        number = {"hit": counters.hits, "miss": counters.misses, "busy": counters.busy}[result]
        yield Sample("tallystick_snapshots_total", (result,), number)
    yield Sample("tallystick_snapshot_fills_total", ("stored",), counters.fills)
    yield Sample("tallystick_snapshot_fills_total", ("lost",), counters.fills_lost)
    yield Sample("tallystick_invalidations_pending_total", (), counters.pending)
    yield Sample("tallystick_invalidations_dropped_total", (), counters.dropped)
    yield Sample("tallystick_self_checks_total", ("right",), counters.checked - counters.stale)
    yield Sample("tallystick_self_checks_total", ("wrong",), counters.stale)


def _now(app: "App") -> Iterator[Sample]:
    admission = app.server.pipeline.admission
    waiting_reads, waiting_writes = admission.waiting
    yield Sample("tallystick_breaker_open", ("redis",), int(app.redis.away))
    yield Sample("tallystick_breaker_open", ("postgres",), int(app.database.away))
    yield Sample("tallystick_connections", (), app.server.open_connections.count)
    yield Sample("tallystick_requests_running", ("reads",), admission.reads)
    yield Sample("tallystick_requests_running", ("writes",), admission.writes)
    anonymous = app.server.pipeline.callers.admission
    yield Sample("tallystick_requests_running", ("anonymous",), anonymous.reads)
    yield Sample("tallystick_requests_running", ("streams",), app.streams.count)
    yield Sample("tallystick_requests_running", ("event_streams",), app.event_streams.count)
    yield Sample("tallystick_requests_running", ("waiting",), app.waiting.count)
    yield Sample("tallystick_requests_waiting", ("anonymous",), sum(anonymous.waiting))
    yield Sample("tallystick_requests_waiting", ("reads",), waiting_reads)
    yield Sample("tallystick_requests_waiting", ("writes",), waiting_writes)
    yield Sample("tallystick_overload_refusals_total", (), admission.refused)
    for name, pool in (("posting", app.database.posting_pool), ("reading", app.database.reading_pool)):
        idle = pool.idle
        yield Sample("tallystick_pool_connections", (name, "idle"), idle)
        yield Sample("tallystick_pool_connections", (name, "used"), pool.size - idle)


async def repeat(samples: Callable[[], Iterable[Sample]], channel: Channel[Any]) -> None:
    """Report samples until cancelled."""
    reporter = Reporter(channel.send)
    try:
        while True:
            reporter.report(values_of(samples()), METRICS, whole=True)
            await asyncio.sleep(REPORT_SECONDS)
    finally:
        reporter.report(values_of(samples()), METRICS, whole=True)


async def report(app: "App", channel: Channel[Any]) -> None:
    """Report the metrics of a worker until cancelled."""
    reporter = Reporter(channel.send)
    lagging = asyncio.create_task(_watch_lag(app.tallies.loop_lag))
    hot_due = time.monotonic() + HOT_SECONDS
    try:
        while True:
            reporter.report(values_of(samples(app)), METRICS)
            if time.monotonic() >= hot_due:
                hot_due = time.monotonic() + HOT_SECONDS
                hot_accounts = _hot_accounts(app)
                channel.send(Hot(hot_accounts, _busy_keys(app)))
                reporter.report(values_of(_ranks(hot_accounts)), METRICS)
            await asyncio.sleep(REPORT_SECONDS)
    finally:
        lagging.cancel()
        # Report what was counted since the last report.
        reporter.report(values_of(samples(app)), METRICS)


def _hot_accounts(app: "App") -> tuple[HotAccount, ...]:
    """Return the busiest accounts since the last call."""
    busiest = app.tallies.hot_accounts.take(HOT_ACCOUNTS_REPORTED)
    return tuple(HotAccount(ledger_id, account, number) for (ledger_id, account), number in busiest)


def _busy_keys(app: "App") -> tuple[BusyKey, ...]:
    """Return the API keys that asked for tokens or were limited most often since the last call."""
    asked = dict(app.tallies.asking_keys.take(BUSY_KEYS_REPORTED))
    limited = dict(app.tallies.limited_keys.take(BUSY_KEYS_REPORTED))
    return tuple(
        BusyKey(*name, max(asked.get(name, 0), limited.get(name, 0)), limited.get(name, 0)) for name in asked | limited
    )


def _ranks(hot_accounts: tuple[HotAccount, ...]) -> Iterator[Sample]:
    """Return the number of transfers of the busiest accounts, by rank; 0 for ranks without an account."""
    for rank in range(HOT_ACCOUNTS_REPORTED):
        number = hot_accounts[rank].transfers if rank < len(hot_accounts) else 0
        yield Sample("tallystick_hot_account_transfers", (str(rank + 1),), number)


async def _watch_lag(histogram: Histogram) -> None:
    while True:
        due = time.monotonic() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        histogram.add(max(0.0, time.monotonic() - due))
