"""The coalescer alone: which items share a batch, wait or are refused, and which callers a failure affects."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from server.store.coalescer import Coalescer, QueueFullError
from tests.support.waiting import WAIT_SECONDS

BATCH_MAX = 4
QUEUE_MAX = 10
QUEUED_SECONDS = 0.05


def capitals(items: list[str]) -> Sequence[str]:
    """Answer each item with its capital letters."""
    return [item.upper() for item in items]


class Store:
    """A store that records its batches and answers when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.away = 0
        self.away_most = 0
        self.answer: Callable[[list[str]], Sequence[str | BaseException]] = lambda items: [
            item.upper() for item in items
        ]

    async def run(self, items: list[str]) -> Sequence[str | BaseException]:
        """Answer a batch once the store is open."""
        self.batches.append(items)
        self.away += 1
        self.away_most = max(self.away_most, self.away)
        try:
            await self.open.wait()
            return self.answer(items)
        finally:
            self.away -= 1


def coalescer(store: Store, in_flight_max: int = 1) -> Coalescer[str, str]:
    """Return a coalescer in front of *store*."""
    return Coalescer(store.run, batch_max=BATCH_MAX, in_flight_max=in_flight_max, queue_max=QUEUE_MAX)


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    """Fail the test instead of hanging."""
    async with asyncio.timeout(WAIT_SECONDS):
        yield


async def ticks(count: int = 3) -> None:
    """Let the event loop run the tasks that are ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_batch_a_tick() -> None:
    """All items submitted within one turn of the loop share a batch and are answered in order."""
    store = Store()
    store.open.set()
    lane = coalescer(store)
    async with bounded():
        assert await asyncio.gather(*(lane.submit(item) for item in "abc")) == ["A", "B", "C"]
    assert store.batches == [["a", "b", "c"]]


async def test_what_comes_while_a_batch_is_away_joins_the_next() -> None:
    """Items from several turns share the next batch, which is sent as soon as the one before ends, without a timer."""
    store = Store()
    lane = coalescer(store)
    futures = [lane.submit("a")]
    await ticks()
    for item in "bcd":
        futures.append(lane.submit(item))
        await ticks()
    assert store.batches == [["a"]]
    store.open.set()
    async with bounded():
        assert await asyncio.gather(*futures) == ["A", "B", "C", "D"]
    assert store.batches == [["a"], ["b", "c", "d"]]


async def test_a_batch_is_closed_by_weight() -> None:
    """An item that would exceed a batch's weight begins the next one, and the order is kept."""
    store = Store()
    store.open.set()
    lane = coalescer(store)
    weights = {"a": 2, "b": 2, "c": 1, "d": 4, "e": 1}
    async with bounded():
        await asyncio.gather(*(lane.submit(item, weight) for item, weight in weights.items()))
    assert store.batches == [["a", "b"], ["c"], ["d"], ["e"]]


@pytest.mark.parametrize(
    ("waiting", "sizes"),
    [(1, [1]), (2, [2]), (3, [2, 1]), (5, [2, 2, 1]), (6, [3, 2, 1]), (9, [4, 2, 2, 1])],
)
async def test_a_batch_leaves_half_to_the_next(waiting: int, sizes: list[int]) -> None:
    """From `split_from` items on, a batch takes half of the waiting items, within its limit; none is left behind."""
    store = Store()
    store.open.set()
    lane = Coalescer(store.run, batch_max=BATCH_MAX, in_flight_max=2, queue_max=QUEUE_MAX, split_from=2)
    async with bounded():
        await asyncio.gather(*(lane.submit(f"a{number}") for number in range(waiting)))
    assert list(map(len, store.batches)) == sizes
    assert [item for batch in store.batches for item in batch] == [f"a{number}" for number in range(waiting)]


async def test_an_item_heavier_than_a_batch_travels_alone() -> None:
    """An item heavier than a batch is sent alone, as long as it fits the queue."""
    store = Store()
    store.open.set()
    lane = coalescer(store)
    async with bounded():
        await asyncio.gather(lane.submit("a"), lane.submit("heavy", BATCH_MAX + 3), lane.submit("b"))
    assert store.batches == [["a"], ["heavy"], ["b"]]


@pytest.mark.parametrize("in_flight_max", [1, 2, 3])
async def test_batches_away_are_bounded(in_flight_max: int) -> None:
    """The allowed number of batches is under way at once, and never more."""
    store = Store()
    lane = coalescer(store, in_flight_max)
    futures = []
    for number in range(6):
        # Two items of this weight may wait.
        if number < in_flight_max + 2:
            futures.append(lane.submit(str(number), BATCH_MAX))
        await ticks()
    assert store.away == in_flight_max
    store.open.set()
    async with bounded():
        await asyncio.gather(*futures)
    assert store.away_most == in_flight_max
    assert len(store.batches) == len(futures) == in_flight_max + 2


async def test_a_full_queue_refuses_at_once() -> None:
    """When the queue's weight is used up, `submit` raises and changes nothing; room from a sent batch can be used."""
    store = Store()
    lane = coalescer(store)
    futures = [lane.submit("away")]
    await ticks()
    futures += [lane.submit("a", QUEUE_MAX - 1), lane.submit("b", 1)]
    with pytest.raises(QueueFullError):
        lane.submit("c")
    store.open.set()
    async with bounded():
        await asyncio.gather(*futures)
        assert await lane.submit("d", QUEUE_MAX) == "D"
    assert store.batches == [["away"], ["a"], ["b"], ["d"]]


async def test_what_has_waited_too_long_is_not_sent() -> None:
    """
    An item that has waited too long is refused when its batch would be sent and leaves the queue; later items are sent.
    """
    store = Store()
    lane: Coalescer[str, str] = Coalescer(
        store.run, batch_max=BATCH_MAX, in_flight_max=1, queue_max=QUEUE_MAX, wait_max_seconds=QUEUED_SECONDS
    )
    first = lane.submit("a")
    await ticks()
    old = lane.submit("b", QUEUE_MAX)
    await asyncio.sleep(2 * QUEUED_SECONDS)
    with pytest.raises(QueueFullError):
        lane.submit("c")
    store.open.set()
    async with bounded():
        assert await first == "A"
        with pytest.raises(QueueFullError):
            await old
        assert await lane.submit("c") == "C"
    assert store.batches == [["a"], ["c"]]


async def test_an_item_heavier_than_the_queue_is_refused() -> None:
    """An item that can never fit is refused."""
    with pytest.raises(QueueFullError):
        coalescer(Store()).submit("whale", QUEUE_MAX + 1)


async def test_an_exception_as_a_result_fails_its_own_caller() -> None:
    """An exception among the results fails only its own item; the others of the batch are answered."""
    store = Store()
    store.open.set()
    store.answer = lambda items: [ValueError(item) if item == "b" else item.upper() for item in items]
    lane = coalescer(store)
    async with bounded():
        answers = await asyncio.gather(*(lane.submit(item) for item in "abc"), return_exceptions=True)
    assert answers[0] == "A"
    assert isinstance(answers[1], ValueError)
    assert answers[2] == "C"


async def test_an_exception_raised_fails_the_batch_and_only_it() -> None:
    """An exception raised for a batch fails every caller of it; the next batch is sent normally."""
    store = Store()

    def fail(items: list[str]) -> Sequence[str]:
        if "a" in items:
            raise OSError("gone")
        return items

    store.answer = fail
    lane = coalescer(store)
    first = [lane.submit("a"), lane.submit("b")]
    await ticks()
    second = lane.submit("c")
    store.open.set()
    async with bounded():
        answers = await asyncio.gather(*first, return_exceptions=True)
        assert await second == "c"
    assert [type(answer) for answer in answers] == [OSError, OSError]


@pytest.mark.parametrize("count", [0, 1, 2, 4])
async def test_a_wrong_number_of_results_fails_every_caller(count: int) -> None:
    """If a store returns too few or too many results, every caller fails, and none waits or gets another's answer."""
    store = Store()
    store.open.set()
    store.answer = lambda items: ["?"] * count
    lane = coalescer(store)
    async with bounded():
        answers = await asyncio.gather(*(lane.submit(item) for item in "abc"), return_exceptions=True)
    assert all(isinstance(answer, Exception) for answer in answers), answers


async def test_a_caller_who_leaves_takes_nobody_along() -> None:
    """
    A cancelled caller's item is sent anyway, whether it waited or was under way, and the others of its batch are
    answered.
    """
    store = Store()
    lane = coalescer(store)
    away = [lane.submit("a"), lane.submit("b")]
    await ticks()
    waiting = [lane.submit("c"), lane.submit("d")]
    away[0].cancel()
    waiting[0].cancel()
    store.open.set()
    async with bounded():
        assert await away[1] == "B"
        assert await waiting[1] == "D"
    assert store.batches == [["a", "b"], ["c", "d"]]


async def test_a_cancelled_flight_fails_its_callers_with_an_error() -> None:
    """If a batch's own wait is cancelled, its callers get an error and not a cancellation."""
    store = Store()

    def cancel(_items: list[str]) -> Sequence[str]:
        raise asyncio.CancelledError

    capital, store.answer = store.answer, cancel
    lane = coalescer(store)
    futures = [lane.submit("a"), lane.submit("b")]
    store.open.set()
    async with bounded():
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(answer) for answer in answers] == [ConnectionAbortedError, ConnectionAbortedError]
        store.answer = capital
        assert await lane.submit("c") == "C"


async def test_drain_returns_when_all_is_answered() -> None:
    """A drain returns when batches under way and waiting items are done, and at once if there are none."""
    store = Store()
    lane = coalescer(store)
    async with bounded():
        await lane.drain()
        futures = [lane.submit("a")]
        await ticks()
        futures.append(lane.submit("b"))
        drained = asyncio.create_task(lane.drain())
        await ticks()
        assert not drained.done()
        store.open.set()
        await drained
    assert lane.idle
    assert [future.result() for future in futures] == ["A", "B"]


async def test_drain_sees_what_has_not_left_yet() -> None:
    """A drain in the same turn of the loop as a submission waits for it."""
    store = Store()
    store.open.set()
    lane = coalescer(store)
    future = lane.submit("a")
    async with bounded():
        await lane.drain()
    assert future.done()
