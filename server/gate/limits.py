"""Token buckets: the exact arithmetic of a limit, in Python and in Redis."""

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

# Numbers above this are not exact in Lua, whose numbers are doubles.
_EXACT_MAX: Final = 2**53
_MICROSECONDS: Final = 1_000_000
_UNITS: Final = {"s": 1, "min": 60, "h": 3600, "day": 86_400}
_RATE: Final = re.compile(r"(?P<quota>[1-9][0-9]{0,6})(?:/(?P<unit>s|min|h|day))?")

# The largest numbers of requests that a limit may allow in a window, and at once.
QUOTA_MAX: Final = 1_000_000
BURST_MAX: Final = 1_000_000
# The largest number of requests that a key may be allowed to have running at once in one worker.
CONCURRENCY_MAX: Final = 100_000


class Bucket(NamedTuple):
    """
    A bucket in whole units: it gains *refill* units each microsecond, a token costs *price*, and it holds *capacity*.

    The units are chosen so that nothing is ever rounded. So no rate drifts, however odd it is or however long it runs.
    """

    refill: int
    price: int
    capacity: int


class Limit(NamedTuple):
    """A rate: *quota* tokens every *window* seconds, and up to *burst* of them at once."""

    quota: int
    window: int
    burst: int

    def bucket(self, share: int = 1) -> Bucket:
        """Return the bucket of this limit, or of one *share*-th of it, which holds at least one token."""
        price = self.window * _MICROSECONDS * share
        divisor = math.gcd(self.quota, price)
        tokens = max(1, self.burst // share)
        return Bucket(self.quota // divisor, price // divisor, tokens * (price // divisor))

    @property
    def exact(self) -> bool:
        """Whether the limit can be counted without rounding, in Lua too."""
        return self.bucket().capacity < _EXACT_MAX

    @property
    def counted(self) -> "Limit":
        """This limit, with its burst reduced to what can be counted without rounding."""
        return self._replace(burst=min(self.burst, (_EXACT_MAX - 1) // self._replace(burst=1).bucket().capacity))

    def policy(self, name: str) -> str:
        """Return the limit as an item of RateLimit-Policy (IETF draft-ietf-httpapi-ratelimit-headers-10)."""
        return f'"{name}";q={self.quota};w={self.window}'


def shown_rate(quota: int, window: int) -> str:
    """Return a rate as text such as `6/min`; a window without a unit is shown in seconds."""
    units = {seconds: name for name, seconds in _UNITS.items()}
    return f"{quota}/{units.get(window, f'{window}s')}"


def read_rate(text: str) -> tuple[int, int]:
    """
    Return the quota and the window in seconds of a rate such as `100`, `100/s`, `6/min` or `1/day`.

    Raises:
        ValueError: *text* does not have this form.
    """
    match = _RATE.fullmatch(text)
    if match is None or int(match["quota"]) > QUOTA_MAX:
        raise ValueError(f"a rate is 1 to {QUOTA_MAX} and /s, /min, /h or /day")
    return int(match["quota"]), _UNITS[match["unit"] or "s"]


# Buckets that a worker keeps while it limits alone; the least recently used is evicted first.
LOCAL_BUCKETS_MAX: Final = 10_000


def _microseconds() -> int:
    return time.monotonic_ns() // 1_000


class Taken(NamedTuple):
    """The result of an attempt to take tokens from several buckets at once."""

    # Microseconds until all of them would be there; 0: taken; -1: more tokens than a bucket can ever hold.
    wait: int
    # Whole tokens left in the narrowest bucket.
    left: int
    # Position of the bucket with the longest wait.
    waits_for: int = 0


class LocalBuckets:
    """
    The buckets of one worker while Redis is away: the worker admits its share of each limit, alone.

    The arithmetic is that of `gate.lua`, with one addition. A request that fits the whole limit, but not one share of
    it, is not refused for ever: a full bucket admits it, and its level then falls below zero.

    Args:
        clock: Returns microseconds.
    """

    def __init__(self, clock: Callable[[], int] = _microseconds) -> None:
        self._clock = clock
        # By ledger and name: units, when they were counted, and the price of a token then.
        self._states: dict[tuple[int, str], tuple[int, int, int]] = {}

    def take(self, ledger_id: int, limits: Sequence[tuple[str, Limit]], share: int, cost: int) -> Taken:
        """
        Take *cost* tokens from one *share*-th of each of the *limits*, or from none of them.

        Args:
            limits: The limits with their names within the ledger.
        """
        now = self._clock()
        wait, waits_for = 0, 0
        found = []
        for number, (name, limit) in enumerate(limits):
            bucket = limit.bucket(share)
            units = self._units((ledger_id, name), bucket, now)
            found.append((bucket, units))
            if wait < 0 or not cost:
                continue
            if cost > limit.burst:
                wait, waits_for = -1, number
            else:
                missing = min(cost * bucket.price, bucket.capacity) - units
                if (longer := -(-missing // bucket.refill)) > wait:
                    wait, waits_for = longer, number
        left = []
        for (name, _), (bucket, units) in zip(limits, found, strict=True):
            remain = units - cost * bucket.price if wait == 0 else units
            self._keep((ledger_id, name), (remain, now, bucket.price))
            left.append(max(0, remain // bucket.price))
        return Taken(wait, min(left), waits_for)

    def _units(self, key: tuple[int, str], bucket: Bucket, now: int) -> int:
        """Return how many units a bucket holds now."""
        state = self._states.get(key)
        if state is None:
            return bucket.capacity
        units, since, price = state
        if price != bucket.price:
            # The limit has changed, and with it the size of a unit: keep the whole tokens.
            units = units // price * bucket.price
        return min(bucket.capacity, units + max(0, now - since) * bucket.refill)

    def _keep(self, key: tuple[int, str], state: tuple[int, int, int]) -> None:
        self._states.pop(key, None)
        if len(self._states) >= LOCAL_BUCKETS_MAX:
            del self._states[next(iter(self._states))]
        self._states[key] = state
