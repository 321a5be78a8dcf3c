"""What the cache did, as numbers."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class CacheCounters:
    """Counts since the start of this process. Look-ups that found Redis away or just started are none of these."""

    # Look-ups of snapshots: answered, answered with a lease, found somebody else's lease.
    hits: int = 0
    misses: int = 0
    busy: int = 0
    # Snapshots stored, and those that were not since something newer had been seen or the lease was gone.
    fills: int = 0
    fills_lost: int = 0
    # Accounts whose outdated snapshots could not be removed at once.
    pending: int = 0
    # Of them, those that were too many to remember.
    dropped: int = 0
    # Snapshots that were served and compared with Postgres, and those that were found to be wrong.
    checked: int = 0
    stale: int = 0

    def __str__(self) -> str:
        """Return all of them in one line."""
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
