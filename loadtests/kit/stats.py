"""Figures out of locust's statistics, without what was refused by a limit or not listened for."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

# The end of the names that stand apart: `... (limited)`, `... (answer lost)`.
APART = ")"
PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def merged(entries: Mapping[Any, Any]) -> Counter[float]:
    """Return how many requests took how many milliseconds, of all names that do not stand apart."""
    times: Counter[float] = Counter()
    for entry in entries.values():
        if not entry.name.endswith(APART):
            times.update(entry.response_times)
    return times


def percentile(times: Mapping[float, int], share: float) -> float:
    """Return the milliseconds that *share* of the requests did not exceed; 0 of none."""
    remaining = share * sum(times.values())
    for milliseconds in sorted(times):
        remaining -= times[milliseconds]
        if remaining <= 0:
            return milliseconds
    return 0.0


def figures(entries: Mapping[Any, Any], exceptions: int) -> dict[str, float]:
    """Return what the objectives are held against: counts, the share of failures, and percentiles."""
    requests = sum(entry.num_requests for entry in entries.values())
    failures = sum(entry.num_failures for entry in entries.values())
    times = merged(entries)
    return {
        "requests": requests,
        "failures": failures,
        "error_rate": failures / requests if requests else 1.0,
        "exceptions": exceptions,
        **{name: percentile(times, share) for name, share in PERCENTILES.items()},
    }
