"""Coalescing: items that wait are sent to the store as one batch."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

from server.store.by_hand import ByHand
from server.telemetry.tallies import BatchTally

Item = TypeVar("Item")
Result = TypeVar("Result")
# A waiting item, its weight, the future of its result, and when it arrived, on the clock of `time.monotonic`.
Entry: TypeAlias = tuple[Item, int, asyncio.Future[Result], float]


class QueueFullError(Exception):
    """Too many items wait for the store, or the item has waited too long. It was not sent, so nothing was done."""


class Queue(Protocol[Item, Result]):
    """Holds the items that wait."""

    def __len__(self) -> int:
        """Return the number of items."""

    def append(self, entry: Entry[Item, Result], /) -> None:
        """Add an item."""

    def take(self, most: int, now: float) -> list[Entry[Item, Result]]:
        """
        Remove and return the items of the next batch, at least one if any waits.

        Args:
            most: Maximum weight of the batch; a heavier item is returned alone.

            now: The present time, on the clock of the items' arrival.
        """


class InOrder(deque[Entry[Item, Result]]):
    """A queue whose items are taken in the order in which they arrived."""

    def take(self, most: int, now: float) -> list[Entry[Item, Result]]:  # noqa: ARG002
        """Do what `Queue.take` says."""
        batch: list[Entry[Item, Result]] = []
        load = 0
        while self and (not batch or load + self[0][1] <= most):
            load += self[0][1]
            batch.append(self.popleft())
        return batch


class Coalescer(Generic[Item, Result]):
    """
    Collects waiting items and sends them as one batch.

    The first item of a loop tick schedules a batch at the end of the tick; the other items of the tick join it. While
    the maximum number of batches is in flight, items wait and join the next one. Nothing waits for a timer.

    Args:
        run: Takes the items of a batch and returns one result per item, in order. A result that is an exception fails
            only its own caller; an exception raised fails every caller of the batch.

        batch_max: Maximum weight of a batch. A heavier item is sent alone.

        in_flight_max: Batches that may be in flight at once.

        queue_max: Weight that may wait; beyond it `submit` raises. None where admission limits the callers already.

        split_from: Weight up to which a batch takes everything that waits; a heavier batch takes only half of it. If it
            took everything, this process would be idle while the store works, and the store while this process answers.

        wait_max_seconds: Seconds that an item may wait. An item that has waited longer is refused and not sent: its
            caller has most likely given up.

        tally: Counts the batches.

        queue: Holds the waiting items; `InOrder` by default.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        batch_max: int,
        in_flight_max: int,
        queue_max: int | None = None,
        split_from: int | None = None,
        wait_max_seconds: float = math.inf,
        tally: BatchTally | None = None,
        queue: Queue[Item, Result] | None = None,
    ) -> None:
        self._tally = tally
        self._wait_max = wait_max_seconds
        self._run = run
        self._batch_max = batch_max
        self._split_from = batch_max if split_from is None else split_from
        self._in_flight_max = in_flight_max
        self._queue_max = math.inf if queue_max is None else queue_max
        self._queue: Queue[Item, Result] = InOrder[Item, Result]() if queue is None else queue
        # Weight of the items that wait.
        self.queued = 0
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_flight = ByHand(self._batch_ended)

    @property
    def idle(self) -> bool:
        """True when no item waits and no batch is in flight."""
        return not self._queue and not self._in_flight

    def submit(self, item: Item, weight: int = 1) -> asyncio.Future[Result]:
        """
        Put *item* in the next batch and return the future of its result.

        Cancelling the future gives up the result only: the batch goes on.

        Raises:
            QueueFullError: *queue_max* is reached; nothing was queued.
        """
        if self.queued + weight > self._queue_max:
            raise QueueFullError
        loop = self._loop
        if loop is None:
            # Asked once: CPython 3.11 makes a system call each time, a sixth of the path of a cached read.
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append((item, weight, future, time.monotonic()))
        self.queued += weight
        if not self._scheduled and len(self._in_flight) < self._in_flight_max:
            self._scheduled = True
            loop.call_soon(self._send)
        return future

    async def drain(self) -> None:
        """Return when every submitted item has been answered."""
        while not self.idle:
            if self._in_flight:
                await self._in_flight.one_ended()
            else:
                await asyncio.sleep(0)

    def _send(self) -> None:
        self._scheduled = False
        while self._queue and len(self._in_flight) < self._in_flight_max:
            assert self._loop is not None, "something was submitted"
            now = time.monotonic()
            most = min(self._batch_max, max(self._split_from, self.queued // 2))
            batch = self._queue.take(most, now)
            load = sum(entry[1] for entry in batch)
            self.queued -= load
            if batch[0][3] < now - self._wait_max:
                batch = self._refuse_late(batch, now - self._wait_max)
                if not batch:
                    continue
            if self._tally is not None:
                self._tally.left(load, now - batch[0][3])
            self._in_flight.start(self._run_batch(batch))

    def _refuse_late(self, batch: list[Entry[Item, Result]], oldest: float) -> list[Entry[Item, Result]]:
        """Refuse the items that arrived before *oldest*, and return the others."""
        for _, _, future, arrived in batch:
            if arrived < oldest and not future.done():
                future.set_exception(QueueFullError())
        return [entry for entry in batch if entry[3] >= oldest]

    def _batch_ended(self) -> None:
        # Sent at the end of the tick, so that the next requests of the callers just answered join this batch.
        if self._queue and not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._send)

    async def _run_batch(self, batch: list[Entry[Item, Result]]) -> None:
        try:
            results = await self._run([entry[0] for entry in batch])
            answers = list(zip(batch, results, strict=True))
        except BaseException as error:
            # A cancelled batch must not look like a cancelled caller.
            failure = (
                ConnectionAbortedError("the batch was cancelled")
                if isinstance(error, asyncio.CancelledError)
                else error
            )
            for _, _, future, _ in batch:
                if not future.done():
                    future.set_exception(failure)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            return
        for (_, _, future, _), result in answers:
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
