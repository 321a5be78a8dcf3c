"""The counts of a worker: plain numbers, so that counting costs a request next to nothing."""

from bisect import bisect_left
from collections import Counter
from typing import Final

from server.telemetry.top import Top

# Upper bounds of durations, in seconds: from a cached read to the longest deadline.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Upper bounds of the number of items in a batch, up to the largest there is.
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
# Busy accounts that are counted: ten times as many as are shown, so that the right ones are shown.
HOT_ACCOUNTS_COUNTED: Final = 100
# The same for API keys.
BUSY_KEYS_COUNTED: Final = 100


class Histogram:
    """
    Counts how many values lie between which bounds.

    Args:
        bounds: Upper bounds, ascending; a value equal to a bound counts below it.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        # The last one counts the values above all bounds.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def numbers(self) -> tuple[float, ...]:
        """Return the counts and then the sum of the values."""
        return (*self.counts, self.total)


class BatchTally:
    """Counts the batches of a lane: their sizes, and how long the first item of each had waited."""

    __slots__ = ("sizes", "waits")

    def __init__(self) -> None:
        self.sizes = Histogram(SIZES)
        self.waits = Histogram(SECONDS)

    def left(self, size: int, waited: float) -> None:
        """Count a batch of *size* items that is sent *waited* seconds after its first item arrived."""
        self.sizes.add(size)
        self.waits.add(waited)


class Timing:
    """Where a posting spent its time, in seconds; zero for a step that it has not reached."""

    __slots__ = ("database", "lane")

    def __init__(self) -> None:
        self.lane = 0.0
        self.database = 0.0


class Tallies:
    """Everything that a worker has counted since it started. Counts only grow, except those of accounts and keys."""

    def __init__(self) -> None:
        # By method, path with its wildcards, and status.
        self.requests: dict[tuple[str, str, int], Histogram] = {}
        # Answers that are problems, by code.
        self.problems: Counter[str] = Counter()
        # Gate, read, post and Redis.
        self.batches: dict[str, BatchTally] = {lane: BatchTally() for lane in ("gate", "read", "post", "redis")}
        # Decisions of the rate limiter: by "redis", "worker" or "memory", and whether the request was admitted.
        self.decisions: Counter[tuple[str, bool]] = Counter()
        # Replays by the source of the answer: "redis" or "postgres".
        self.replays: Counter[str] = Counter()
        # Delays of timers of the event loop, in seconds.
        self.loop_lag = Histogram(SECONDS)
        self.hot_accounts: Top[tuple[int, str]] = Top(HOT_ACCOUNTS_COUNTED)
        # Requests that asked for tokens, and those of them that were refused, by ledger and key.
        self.asking_keys: Top[tuple[int, str]] = Top(BUSY_KEYS_COUNTED)
        self.limited_keys: Top[tuple[int, str]] = Top(BUSY_KEYS_COUNTED)
