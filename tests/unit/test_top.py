"""The most frequent things are found with little memory, and never counted too low."""

import random
from collections import Counter

import pytest

from server.telemetry.top import ROOM_FACTOR, Top

SIZE = 10


def test_few_are_counted_exactly() -> None:
    """Few things are counted exactly and in order, and the counts start anew after they were taken."""
    top: Top[str] = Top(SIZE)
    for thing, number in (("a", 3), ("b", 5), ("a", 1), ("c", 1)):
        top.add(thing, number)
    assert top.take(2) == [("b", 5), ("a", 4)]
    assert top.take(2) == []
    top.add("a")
    assert top.take(2) == [("a", 1)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("skew", [0.5, 1.0, 1.5])
def test_bounds(seed: int, skew: float) -> None:
    """Among thousands, all things above a certain share are found, and no count is wrong by more than that share."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) ** skew for rank in range(5_000)]
    stream = chance.choices(range(5_000), weights, k=20_000)
    truth = Counter(stream)
    top: Top[int] = Top(SIZE)
    for thing in stream:
        top.add(thing)
    found = dict(top.take(ROOM_FACTOR * SIZE))
    assert len(found) <= ROOM_FACTOR * SIZE
    share = len(stream) / SIZE
    assert {thing for thing, number in truth.items() if number > share} <= found.keys()
    assert all(truth[thing] <= number <= truth[thing] + share for thing, number in found.items())


def test_what_comes_in_turns() -> None:
    """Many things that come in turn do not displace one that comes all the time."""
    top: Top[int] = Top(SIZE)
    for number in range(10_000):
        top.add(-1)
        top.add(number % 500)
    assert top.take(1)[0][0] == -1
