"""Makes the snapshots of the server that the console shows: one each second, kept for ten minutes."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final

from server.process.console.changes import Changes, quantile
from server.process.mirror import Mirror
from server.process.usage import Usage, usage

# Most snapshots that are kept: one a second for ten minutes, about 2 kB each.
KEPT_MAX: Final = 600
# Least seconds between two snapshots: a supervisor that was held up may send two `Status` at once, and rates over a few
# milliseconds would be noise.
SECONDS_MIN: Final = 0.5
# The percentiles that are shown, by name.
QUANTILES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))

LANES: Final = ("gate", "redis", "read", "post")


class Board:
    """
    Makes a snapshot after each `Status` of the supervisor.

    Args:
        mirror: Holds what the children have reported.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._changes = Changes()
        self._used: dict[int, Usage] = {}
        self._seen_at = 0.0
        # Snapshots as they are sent, oldest first.
        self.kept: deque[bytes] = deque(maxlen=KEPT_MAX)
        self._next: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.ended = False
        mirror.on_status = self._on_status

    async def next(self) -> bytes | None:
        """Wait for the next snapshot and return it, or None if there will be no more."""
        return None if self.ended else await asyncio.shield(self._next)

    def end(self) -> None:
        """Make no more snapshots, and let all waiting calls of `next` return None."""
        self.ended = True
        if not self._next.done():
            self._next.set_result(None)

    def _on_status(self) -> None:
        now = time.monotonic()
        seconds = now - self._seen_at
        if self.ended or seconds < SECONDS_MIN:
            return
        self._seen_at = now
        is_first = not self._changes.begin(self._mirror.totals(), seconds)
        snapshot = self._snapshot(seconds)
        if is_first:
            # There is no earlier status to compare with yet.
            return
        made = json.dumps(snapshot, separators=(",", ":")).encode()
        self.kept.append(made)
        waited_for, self._next = self._next, asyncio.get_running_loop().create_future()
        waited_for.set_result(made)

    def _snapshot(self, seconds: float) -> dict[str, Any]:
        changes, mirror = self._changes, self._mirror
        took = changes.histogram("tallystick_request_duration_seconds", keep=_of_api)
        requests = changes.sums("tallystick_request_duration_seconds", 2, keep=_of_api)
        return {
            "at": round(time.time(), 1),
            "requests": requests,
            **{name: _ms(quantile(took, share)) for name, share in QUANTILES},
            "problems": changes.sums("tallystick_problems_total", 0),
            "cache": changes.sums("tallystick_snapshots_total", 0),
            "replays": changes.sums("tallystick_replays_total", 0),
            "limiter": changes.sums("tallystick_limiter_decisions_total", 1),
            "keys": mirror.busy_keys(),
            "batches": {lane: _mean(changes.histogram("tallystick_batch_size", keep=_only(lane))) for lane in LANES},
            "pools": changes.now("tallystick_pool_connections"),
            "running": changes.now("tallystick_requests_running"),
            "waiting": sum(changes.now("tallystick_requests_waiting").values()),
            "connections": sum(changes.now("tallystick_connections").values()),
            "lag": _ms(quantile(changes.histogram("tallystick_loop_lag_seconds"), 0.99)),
            "away": changes.now("tallystick_breaker_open"),
            "hot": mirror.hot_accounts(),
            "places": self._places(seconds),
            "sinks": self._sinks(),
            "webhooks": {
                **changes.sums("tallystick_webhook_attempts_total", 0),
                "lag": _one(changes.now("tallystick_webhook_lag_events")),
            },
            "auditor": {
                "rows": sum(changes.sums("tallystick_integrity_rows_total", None).values()),
                "findings": _one(changes.now("tallystick_integrity_findings")),
                "age": _one(changes.now("tallystick_integrity_age_seconds")),
            },
            "feed": {
                "events": sum(changes.sums("tallystick_events_total", None).values()),
                "lag": _one(changes.now("tallystick_relay_lag_seconds")),
            },
        }

    def _places(self, seconds: float) -> list[dict[str, Any]]:
        shown = []
        used: dict[int, Usage] = {}
        for place in self._mirror.places():
            found = usage(place.pid) if place.pid else None
            row: dict[str, Any] = place._asdict()
            if found is not None:
                used[place.pid] = found
                before = self._used.get(place.pid, found)
                row["cpu"] = round((found.cpu_seconds - before.cpu_seconds) / seconds, 3)
                row["memory"] = found.resident_bytes
            row["silent_seconds"] = round(place.silent_seconds, 1)
            shown.append(row)
        self._used = used
        return shown

    def _sinks(self) -> list[dict[str, Any]]:
        events, seconds, halted = (
            self._changes.now(f"tallystick_sink_{name}") for name in ("lag_events", "lag_seconds", "halted")
        )
        sent = self._changes.sums("tallystick_sink_events_total", 0)
        return [
            {
                "sink": sink,
                "events": events[sink],
                "seconds": seconds.get(sink, 0),
                "halted": bool(halted.get(sink)),
                "sent": sent.get(sink, 0),
            }
            for sink in sorted(events)
        ]


def _of_api(labels: tuple[str, ...]) -> bool:
    """Return whether these labels are those of an API request: probes would distort the figures of the others."""
    return labels[1].startswith("/v1/")


def _only(first: str) -> Any:
    return lambda labels: labels[0] == first


def _mean(cells: Counter[float | None]) -> float | None:
    number = sum(count for bound, count in cells.items() if bound is not None)
    return round(cells[None] / number, 1) if number > 0 else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _one(values: dict[str, float]) -> float | None:
    """Return the value of a gauge without labels; at most one process reports more than zero."""
    return max(values.values(), default=None)


def together(snapshots: Iterable[bytes]) -> bytes:
    """Return snapshots as one JSON array."""
    return b"[%b]" % b",".join(snapshots)
