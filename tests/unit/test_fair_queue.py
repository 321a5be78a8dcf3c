"""The fair queue alone: the share of each batch that every group gets."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from server.store.coalescer import Coalescer, Entry
from server.store.fair_queue import PATIENCE_SECONDS, FairQueue
from tests.support.waiting import WAIT_SECONDS

MOST = 500
NOW = 100.0


class Item(NamedTuple):
    """An item of a group."""

    group: int
    weight: int = 1
    number: int = 0


def queue_of(items: Iterable[Item], *, at: float = NOW) -> FairQueue[Item, None]:
    """Return a queue in which these items wait."""
    queue: FairQueue[Item, None] = FairQueue(lambda item: item.group)
    add(queue, items, at=at)
    return queue


def add(queue: FairQueue[Item, None], items: Iterable[Item], *, at: float = NOW) -> None:
    """Put items into the queue."""
    for item in items:
        queue.append((item, item.weight, asyncio.Future(), at))


def weights(batch: list[Entry[Item, None]]) -> Counter[int]:
    """Return the weight of each group in a batch."""
    counted: Counter[int] = Counter()
    for item, weight, _, _ in batch:
        counted[item.group] += weight
    return counted


def taken(queue: FairQueue[Item, None], now: float = NOW) -> list[Counter[int]]:
    """Take all waiting items, and return the weights of each batch."""
    batches = []
    while queue:
        batches.append(weights(queue.take(MOST, now)))
    return batches


async def test_equal_needs_get_equal_shares() -> None:
    """Ledgers with more than enough requests each get the same part of every batch, whichever came first."""
    queue = queue_of(Item(group) for group in range(5) for _ in range(1_000))
    assert [set(batch.values()) for batch in taken(queue)] == [{100}] * 10


async def test_a_crowd_leaves_the_others_their_share() -> None:
    """While 1,500 requests of one ledger wait, all requests of ten others that came later join the next batch."""
    queue = queue_of(Item(0) for _ in range(1_500))
    add(queue, (Item(group) for group in range(1, 11) for _ in range(40)))
    first = queue.take(MOST, NOW)
    assert weights(first) == {0: 100, **dict.fromkeys(range(1, 11), 40)}
    assert taken(queue) == [Counter({0: MOST})] * 2 + [Counter({0: 400})]


async def test_bulks_leave_the_others_their_share() -> None:
    """
    A ledger whose bulks are as heavy as a batch gets one batch for each batch of every other ledger, and light requests
    go before its bulks.
    """
    queue = queue_of(Item(0, MOST) for _ in range(64))
    add(queue, (Item(group) for group in (1, 2) for _ in range(2_000)))
    add(queue, [Item(3)])
    batches = taken(queue)
    assert batches[0] == {1: 250, 2: 249, 3: 1}
    sent: Counter[int] = Counter()
    while sent[1] < 2_000:
        sent += batches.pop(0)
        # No ledger is ahead of another by more than a batch.
        assert max(sent[group] for group in (0, 1, 2)) - min(sent[group] for group in (0, 1, 2)) <= MOST + 1
    assert sent[0] >= 3 * MOST


async def test_a_ledger_keeps_its_order() -> None:
    """Each ledger's requests are sent in their order, whatever is sent between them."""
    queue = queue_of(Item(number % 3, 1 + number % 7, number) for number in range(900))
    order: dict[int, list[int]] = {0: [], 1: [], 2: []}
    while queue:
        for item, *_ in queue.take(50, NOW):
            order[item.group].append(item.number)
    assert [order[group] for group in range(3)] == [list(range(group, 900, 3)) for group in range(3)]


async def test_a_heavy_item_is_sent_whole_and_alone() -> None:
    """An atomic set heavier than a batch waits for its turn and gets a batch of its own."""
    queue = queue_of([Item(0, 1_000), *(Item(0) for _ in range(3))])
    add(queue, (Item(1) for _ in range(700)))
    assert taken(queue) == [{1: 500}, {1: 200}, {0: 1_000}, {0: 3}]


@pytest.mark.parametrize("weight", [1, MOST, 2 * MOST])
async def test_nobody_waits_for_ever(weight: int) -> None:
    """A request that has waited too long joins the next batch, or is sent alone if it is too heavy for one."""
    queue = queue_of([Item(0, weight), Item(0, weight)], at=NOW - PATIENCE_SECONDS - 0.1)
    add(queue, (Item(group) for group in range(1, 1_001) for _ in range(2)))
    first = weights(queue.take(MOST, NOW))
    assert first[0] == weight
    assert sum(first.values()) == (weight if weight > MOST else weight + MOST)
    taken(queue)
    assert not queue
    assert queue.ahead(0, 1) == 1


async def test_what_is_ahead_is_what_is_sent_before() -> None:
    """The weight ahead of a ledger's next item is what is sent until it is sent, or a little more."""
    needs = {0: 1_500, 1: 20, 2: 700, 3: 1}
    for group in (0, 1, 2, 3, 4):
        queue = queue_of(Item(name) for name, need in needs.items() for _ in range(need))
        ahead = queue.ahead(group, 1)
        last = Item(group, 1, -1)
        add(queue, [last])
        sent = 0
        while queue:
            names = [item for item, *_ in queue.take(1, NOW)]
            sent += 1
            if names == [last]:
                break
        assert ahead - len(needs) <= sent <= ahead + 1, group


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    """Fail the test instead of hanging."""
    async with asyncio.timeout(WAIT_SECONDS):
        yield


async def test_a_coalescer_sends_fair_batches() -> None:
    """If a ledger fills the queue while two batches are under way, the requests of others still join the third."""
    batches: list[list[Item]] = []
    go_on = asyncio.Event()

    async def run(items: list[Item]) -> list[int]:
        batches.append(items)
        await go_on.wait()
        return [item.number for item in items]

    lane: Coalescer[Item, int] = Coalescer(
        run, batch_max=MOST, in_flight_max=2, split_from=100, queue=FairQueue(lambda item: item.group)
    )
    futures = [lane.submit(Item(0, MOST, number), MOST) for number in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(batches) == 2
    futures += [lane.submit(Item(group, 1, group), 1) for group in range(1, 6)]
    go_on.set()
    async with bounded():
        answers = await asyncio.gather(*futures)
    assert answers == [*range(10), *range(1, 6)]
    assert {item.group for item in batches[2]} == {1, 2, 3, 4, 5}
    assert lane.queued == 0
    assert lane.idle
