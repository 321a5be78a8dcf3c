"""A token bucket in exact fractions, and the gate's script with a clock that tests set."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from server.gate.limits import BURST_MAX, QUOTA_MAX, Bucket, Limit
from server.store.scripts import script

# The line of the script that reads the clock, and its replacement here: the last two arguments.
CLOCK = "local clock = redis.call('TIME')\n"
INJECTED = "local clock = {table.remove(ARGV, #ARGV - 1), table.remove(ARGV)}\n"

# A time in 2026, in microseconds; and an instant about 250 years later, which no clock here passes.
EPOCH = 1_790_000_000_000_000
END = 2**53
# The longest gap between two requests, in microseconds; 30 of them stay far from END.
GAP_MAX = 10**13
MICROSECONDS = 1_000_000


class Reply(NamedTuple):
    """The answer of a limiter to one request."""

    wait: int
    left: int
    waits_for: int = 0


class Model:
    """
    Buckets that hold fractions of tokens. Only the values told to a caller are rounded.

    Args:
        limits: All of them have to admit a request.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits
        self.tokens = [Fraction(limit.burst) for limit in limits]
        self.now = EPOCH

    def ask(self, now: int, cost: int) -> Reply:
        """Return the answer to a request at *now*."""
        for number, limit in enumerate(self.limits):
            # A clock that stepped back refills nothing.
            gained = Fraction(max(0, now - self.now) * limit.quota, limit.window * MICROSECONDS)
            self.tokens[number] = min(Fraction(limit.burst), self.tokens[number] + gained)
        self.now = now
        waits = [self._wait(limit, held, cost) for limit, held in zip(self.limits, self.tokens, strict=True)]
        wait = -1 if -1 in waits else max(waits)
        if wait == 0:
            self.tokens = [held - cost for held in self.tokens]
        return Reply(wait, min(int(held) for held in self.tokens), waits.index(wait) if wait else 0)

    def seconds_to_full(self, number: int) -> Fraction:
        """Return how many seconds it takes until a bucket is full."""
        limit = self.limits[number]
        return (limit.burst - self.tokens[number]) * limit.window / limit.quota

    @staticmethod
    def _wait(limit: Limit, held: Fraction, cost: int) -> int:
        if cost > limit.burst:
            return -1
        if cost <= held:
            return 0
        wait = (cost - held) * limit.window * MICROSECONDS / limit.quota
        return -(-wait.numerator // wait.denominator)


class Script:
    """
    The gate's script on a real server, with the time as an argument.

    Args:
        redis: The server.

        names: Keys of its buckets; they are removed first.
    """

    def __init__(self, redis: Any, names: Sequence[str]) -> None:
        text = script("gate").text
        assert text.count(CLOCK) == 1
        assert text.count("TIME") == 1
        self._redis = redis
        self._sha = redis.script_load(text.replace(CLOCK, INJECTED))
        self.names = names
        redis.delete(*names)

    def ask(self, now: int, buckets: Sequence[Bucket], *costs: int) -> list[Reply]:
        """Send requests of these costs in one call, at an instant of the server's clock."""
        return self.ask_all(now, buckets, *((tuple(range(len(buckets))), cost) for cost in costs))

    def ask_all(self, now: int, buckets: Sequence[Bucket], *asked: tuple[Sequence[int], int]) -> list[Reply]:
        """Send requests of several API keys in one call: the positions of their buckets, and their costs."""
        names = list(self.names[: len(buckets)])
        flat = [number for bucket in buckets for number in bucket]
        requests = []
        for places, group in groupby(asked, lambda request: request[0]):
            found = list(group)
            requests += [len(places), *(place + 1 for place in places), len(found)]
            requests += [number for _, cost in found for number in (cost, 0)]
        numbers = msgspec.msgpack.encode([len(buckets), *flat, *requests])
        arguments = ["t", 1_000, numbers, now // MICROSECONDS, now % MICROSECONDS]
        reply = self._redis.evalsha(self._sha, len(names), *names, *arguments)
        thirds = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [Reply(wait, left, found - 1 if wait else 0) for wait, left, found in thirds]


class AddressScript:
    """
    The script for buckets by address on a real server, with the time as an argument.

    Args:
        redis: The server.

        names: The buckets and their index; they are removed first.
    """

    def __init__(self, redis: Any, names: Sequence[str]) -> None:
        text = script("address").text
        assert text.count(CLOCK) == 1
        assert text.count("TIME") == 1
        self._redis = redis
        self._sha = redis.script_load(text.replace(CLOCK, INJECTED))
        self._names = names
        redis.delete(*names)

    def ask(self, now: int, address: str, bucket: Bucket, cost: int) -> tuple[int, int]:
        """Ask for tokens at an instant of the server's clock; return the wait and how many are left."""
        arguments = (address, *bucket, cost, now // MICROSECONDS, now % MICROSECONDS)
        wait, left = self._redis.evalsha(self._sha, 2, *self._names, *arguments)
        return wait, left

    @property
    def kept(self) -> set[str]:
        """The addresses whose buckets are stored, after checking that the index has the same ones."""
        buckets, index = self._names
        kept = {address.decode() for address in self._redis.hkeys(buckets)}
        assert {address.decode() for address in self._redis.zrange(index, 0, -1)} == kept
        return kept


_RATES = st.one_of(
    st.sampled_from([(1, 86_400), (1, 3_600), (1, 60), (1, 1), (7, 60), (999_983, 86_399), (QUOTA_MAX, 1)]),
    st.tuples(st.integers(1, QUOTA_MAX), st.sampled_from([1, 60, 3_600, 86_400])),
    st.tuples(st.integers(1, QUOTA_MAX), st.integers(1, 86_400)),
)
_BURSTS = st.one_of(st.sampled_from([1, 2, BURST_MAX]), st.integers(1, 20), st.integers(1, BURST_MAX))


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    """Draw limits from one a day to a million a second, with any burst that can be counted."""
    quota, window = draw(_RATES)
    return Limit(quota, window, draw(_BURSTS)).counted


@st.composite
def costs(draw: st.DrawFn, limit: Limit) -> int:
    """Draw costs near the burst of a limit, and small ones."""
    around = st.integers(max(0, limit.burst - 2), limit.burst + 2)
    return draw(st.one_of(st.integers(0, 3), around, st.integers(0, limit.burst)))


@st.composite
def steps(draw: st.DrawFn, limit: Limit) -> list[tuple[int, int]]:
    """Draw gaps in microseconds in which a few tokens come, with costs."""
    token = max(1, limit.window * MICROSECONDS // limit.quota)
    gap = st.one_of(
        st.integers(0, 3),
        st.integers(token - 1, token + 1),
        st.integers(0, 5 * token),
        st.integers(0, 2 * token * limit.burst),
    )
    return draw(st.lists(st.tuples(gap.map(lambda found: min(found, GAP_MAX)), costs(limit)), min_size=1, max_size=30))
