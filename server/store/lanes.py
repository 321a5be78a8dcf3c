"""A coalescer for each ledger: requests of one ledger neither wait for nor fail with those of another."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from server.store.coalescer import Coalescer, QueueFullError
from server.telemetry.tallies import BatchTally

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ledgers that may have a lane at once in one process. Idle lanes, of a few hundred bytes each, are dropped when room is
# needed; if more ledgers than this are busy in the same instant, further ones are refused.
LANES_MAX = 1_024


class LedgerLanes(Generic[Item, Result]):
    """
    Keeps one coalescer for each ledger, made at its first use.

    Args:
        make_run: Takes a ledger's id and returns the `run` of its coalescer.

        batch_max, in_flight_max, queue_max, split_from, wait_max_seconds, tally: Arguments of each coalescer.
    """

    def __init__(
        self,
        make_run: Callable[[int], Callable[[list[Item]], Awaitable[Sequence[Result | BaseException]]]],
        *,
        batch_max: int,
        in_flight_max: int,
        queue_max: int | None = None,
        split_from: int | None = None,
        wait_max_seconds: float = math.inf,
        tally: BatchTally | None = None,
    ) -> None:
        self._make_run = make_run
        self._batch_max = batch_max
        self._in_flight_max = in_flight_max
        self._queue_max = queue_max
        self._split_from = split_from
        self._wait_max = wait_max_seconds
        self._tally = tally
        self._lanes: dict[int, Coalescer[Item, Result]] = {}

    def submit(self, ledger_id: int, item: Item, weight: int = 1) -> asyncio.Future[Result]:
        """
        Put *item* in the next batch of its ledger.

        Raises:
            QueueFullError: The ledger's queue is full, or too many ledgers are busy.
        """
        lane = self._lanes.get(ledger_id)
        if lane is None:
            lane = self._open(ledger_id)
        return lane.submit(item, weight)

    async def drain(self) -> None:
        """Return when every submitted item has been answered."""
        for lane in list(self._lanes.values()):
            await lane.drain()

    def _open(self, ledger_id: int) -> Coalescer[Item, Result]:
        if len(self._lanes) >= LANES_MAX:
            self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.idle}
            if len(self._lanes) >= LANES_MAX:
                raise QueueFullError
        lane: Coalescer[Item, Result] = Coalescer(
            self._make_run(ledger_id),
            batch_max=self._batch_max,
            in_flight_max=self._in_flight_max,
            queue_max=self._queue_max,
            split_from=self._split_from,
            wait_max_seconds=self._wait_max,
            tally=self._tally,
        )
        self._lanes[ledger_id] = lane
        return lane
