"""All metrics: name, type, help, labels and bounds."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from server.telemetry.tallies import SECONDS, SIZES, Histogram


class Metric(NamedTuple):
    """One metric: `counter`, `gauge` or `histogram`; all values of its labels come from our own tables."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    # Only of a histogram.
    bounds: tuple[float, ...] = ()


# Decimal places of a second with which a job's lag is reported.
LAG_DIGITS: Final = 1

METRICS: Final[Mapping[str, Metric]] = {
    "tallystick_request_duration_seconds": Metric(
        "histogram",
        "Requests, by how long their answer took from when they had been read.",
        ("method", "route", "status"),
        SECONDS,
    ),
    "tallystick_problems_total": Metric("counter", "Answers that were problems, by their code.", ("code",)),
    "tallystick_replays_total": Metric(
        "counter", "Answers that were given again, by where they came from: redis or postgres.", ("source",)
    ),
    "tallystick_limiter_decisions_total": Metric(
        "counter",
        "Requests that asked for tokens; by is redis, memory (Redis had just said that there are none) or worker (Redis"
        " is away); decision is admitted or limited.",
        ("by", "decision"),
    ),
    "tallystick_batch_size": Metric(
        "histogram", "Requests that left as one batch; lane is gate, redis, read or post.", ("lane",), SIZES
    ),
    "tallystick_batch_wait_seconds": Metric(
        "histogram", "For how long the first request of a batch had waited.", ("lane",), SECONDS
    ),
    "tallystick_snapshots_total": Metric(
        "counter",
        "Look-ups of account snapshots: hit, miss (the lease was taken) or busy (somebody else has it).",
        ("result",),
    ),
    "tallystick_snapshot_fills_total": Metric(
        "counter", "Snapshots stored, or lost because something newer had been seen.", ("result",)
    ),
    "tallystick_invalidations_pending_total": Metric(
        "counter", "Accounts whose outdated snapshots could not be removed at once; this worker does not read them."
    ),
    "tallystick_invalidations_dropped_total": Metric(
        "counter",
        "Of those, accounts that were too many to remember; this worker reads no account from Redis for 10 s then.",
    ),
    "tallystick_self_checks_total": Metric(
        "counter", "Snapshots that were served and then compared with Postgres: right or wrong.", ("result",)
    ),
    "tallystick_breaker_open": Metric(
        "gauge", "Workers that do not ask a store because it does not answer: redis or postgres.", ("store",)
    ),
    "tallystick_connections": Metric("gauge", "Connections of clients that are open."),
    "tallystick_requests_running": Metric(
        "gauge",
        "Requests that hold a place: reads or writes with a key, or anonymous. Streams and event_streams, being sent,"
        " and waiting, for events, hold none.",
        ("kind",),
    ),
    "tallystick_requests_waiting": Metric(
        "gauge", "Requests that wait for a place: reads or writes with a key, or anonymous.", ("kind",)
    ),
    "tallystick_overload_refusals_total": Metric("counter", "Requests that waited for a place and got none."),
    "tallystick_pool_connections": Metric(
        "gauge", "Connections to Postgres; pool is posting or reading, state is used or idle.", ("pool", "state")
    ),
    "tallystick_hot_account_transfers": Metric(
        "gauge",
        "Transfers of the busiest accounts in the last 10 s, by rank from 1 to 10; which accounts they are is said only"
        " at /hot-accounts.",
        ("rank",),
    ),
    "tallystick_spans_total": Metric(
        "counter", "Spans of traces: sent, or dropped because the collector did not take them in time.", ("result",)
    ),
    "tallystick_background_leads": Metric(
        "gauge", "Background processes that lead: 1 over all servers of a database together."
    ),
    "tallystick_holds_expired_total": Metric("counter", "Expiries of holds that were posted."),
    "tallystick_sweep_failures_total": Metric(
        "counter", "Times that due holds of a ledger were left for later: an account was locked, or Postgres away."
    ),
    "tallystick_sweep_lag_seconds": Metric(
        "gauge", "How long the oldest hold that is due has waited for its expiry to be posted, as the leader sees it."
    ),
    "tallystick_events_total": Metric("counter", "Events that got their positions in the feed."),
    "tallystick_relay_lag_seconds": Metric(
        "gauge", "The age of the oldest event that waited for its position when the leader looked last."
    ),
    "tallystick_integrity_rows_total": Metric("counter", "Rows that the auditor has checked."),
    "tallystick_integrity_findings": Metric(
        "gauge", "Errors in the books that the auditor has found, and that no whole round since has found gone."
    ),
    "tallystick_integrity_age_seconds": Metric(
        "gauge", "How long ago the ledger was checked whole that waits longest for it, as the leader sees it."
    ),
    "tallystick_webhook_attempts_total": Metric(
        "counter",
        "Attempts to deliver events to webhook endpoints, by what became of the event: delivered, failed (it is tried"
        " again), dead (it is given up) or gone (the endpoint was disabled).",
        ("outcome",),
    ),
    "tallystick_webhook_lag_events": Metric(
        "gauge", "Events that the webhook endpoint which is furthest behind has yet to be sent, as the leader sees it."
    ),
    "tallystick_webhook_rows_pruned_total": Metric(
        "counter", "Old attempts and given up events of webhook endpoints that were removed."
    ),
    "tallystick_sink_events_total": Metric(
        "counter",
        "Events that were sent to a sink: confirmed, failed (they are sent again), or refused (the sink is halted).",
        ("sink", "outcome"),
    ),
    "tallystick_sink_lag_events": Metric("gauge", "Events that a sink has not confirmed yet.", ("sink",)),
    "tallystick_sink_lag_seconds": Metric("gauge", "The age of the oldest of them.", ("sink",)),
    "tallystick_sink_halted": Metric(
        "gauge", "1 for a sink whose broker refused an event: an operator has to decide about it.", ("sink",)
    ),
    "tallystick_loop_lag_seconds": Metric("histogram", "By how much a timer of the event loop was late.", (), SECONDS),
}


# Metrics of the supervisor itself.
SUPERVISED: Final[Mapping[str, Metric]] = {
    "tallystick_build_info": Metric("gauge", "Always 1; the version of the supervisor.", ("version",)),
    "tallystick_workers": Metric("gauge", "Workers by state: starting, serving, draining or restarting.", ("state",)),
    "tallystick_worker_restarts_total": Metric("counter", "Workers that died or hung and had to be started again."),
    "tallystick_worker_cpu_seconds_total": Metric(
        "counter",
        "Processor time of the worker in a slot, or of the background or admin process, since it started; Linux only.",
        ("slot",),
    ),
    "tallystick_worker_resident_bytes": Metric(
        "gauge", "Memory that the worker in a slot, or the background or admin process, holds; Linux only.", ("slot",)
    ),
    "tallystick_worker_silent_seconds": Metric(
        "gauge",
        "Time since the worker in a slot, or the background or admin process, gave a sign of life.",
        ("slot",),
    ),
    "tallystick_background_processes": Metric(
        "gauge", "Background processes by state: starting, serving, draining or restarting.", ("state",)
    ),
    "tallystick_background_restarts_total": Metric(
        "counter", "Background processes that died or hung and had to be started again."
    ),
    "tallystick_admin_restarts_total": Metric(
        "counter", "Processes that answer operators that died or hung and had to be started again."
    ),
}

# Metrics that `tallystick audit --metrics FILE` writes.
AUDITED: Final[Mapping[str, Metric]] = {
    "tallystick_audit_findings": Metric("gauge", "Errors that the last audit found in the books."),
    "tallystick_audit_transfers": Metric("gauge", "Transfers that it checked."),
    "tallystick_audit_duration_seconds": Metric("gauge", "How long it took."),
    "tallystick_audit_time_seconds": Metric("gauge", "When it ended, in seconds since 1970."),
}


class Sample(NamedTuple):
    """A metric's value now: a counter's is the total since the worker started."""

    name: str
    labels: tuple[str, ...]
    value: float | Histogram
