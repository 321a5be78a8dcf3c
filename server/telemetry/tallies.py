"""What a worker counts: plain numbers, so that counting costs next to nothing where requests pass."""

from bisect import bisect_left
from collections import Counter
from typing import Final

from server.telemetry.top import Top

# Upper bounds of durations, in seconds: from a cached read to the longest deadline.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Upper bounds of the number of items in a batch, up to the largest there is.
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
# Busy accounts that are kept apart: ten times as many as are shown, so that those are the right ones.
HOT_ACCOUNTS_COUNTED: Final = 100


class Spread:
    """
    How many values fell between which bounds.

    Args:
        bounds: Ascending; a value belongs under the first that is not below it.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        # One more than there are bounds, for what is above all of them.
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
    """The batches of a lane: how many items they had, and for how long the first of them had waited."""

    __slots__ = ("sizes", "waits")

    def __init__(self) -> None:
        self.sizes = Spread(SIZES)
        self.waits = Spread(SECONDS)

    def left(self, size: int, waited: float) -> None:
        """Count a batch of *size* items that leaves *waited* seconds after its first one came."""
        self.sizes.add(size)
        self.waits.add(waited)


class Timing:
    """Where a posting spent its time, in seconds; zero for what it has not come to."""

    __slots__ = ("database", "lane")

    def __init__(self) -> None:
        self.lane = 0.0
        self.database = 0.0


class Tallies:
    """All that is counted in a worker since it started; only ever grows, but for `hot_accounts`."""

    def __init__(self) -> None:
        # By method, path with its wildcards, and status.
        self.requests: dict[tuple[str, str, int], Spread] = {}
        # Answers that are problems, by code.
        self.problems: Counter[str] = Counter()
        # Gate, read, post and Redis.
        self.batches: dict[str, BatchTally] = {lane: BatchTally() for lane in ("gate", "read", "post", "redis")}
        # Requests that asked for tokens, by who decided ("redis", "worker" or "memory") and whether they got them.
        self.decisions: Counter[tuple[str, bool]] = Counter()
        # Answers given again, by where they came from: "redis" or "postgres".
        self.replays: Counter[str] = Counter()
        # By how many seconds the loop was late for a timer.
        self.loop_lag = Spread(SECONDS)
        self.hot_accounts: Top[tuple[int, str]] = Top(HOT_ACCOUNTS_COUNTED)
