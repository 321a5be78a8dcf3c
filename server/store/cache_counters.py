"""Counts what the cache did."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class CacheCounters:
    """Counts since the start of this process. Look-ups while Redis is away or in quarantine are not counted."""

    # Look-ups that found a snapshot, found nothing and took the lease, or found the lease of another reader.
    hits: int = 0
    misses: int = 0
    busy: int = 0
    # Snapshots that were stored, and those that were not: the lease was gone, or invalidated by a newer version.
    fills: int = 0
    fills_lost: int = 0
    # Invalidations that could not be sent at once.
    pending: int = 0
    # Pending invalidations that were dropped because there were too many.
    dropped: int = 0
    # Served snapshots that were compared with Postgres, and those that were wrong.
    checked: int = 0
    stale: int = 0

    def __str__(self) -> str:
        """Return all counts in one line."""
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
