"""Each ledger has a lane, so that no tenant waits for, fails with, or crowds out another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from server.store import lanes as module
from server.store.coalescer import QueueFullError
from server.store.lanes import LedgerLanes
from tests.support.waiting import WAIT_SECONDS


class Stores:
    """A store for each ledger; those in *shut* do not answer until their event is set, those in *broken* fail."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[str]]] = []
        self.shut: dict[int, asyncio.Event] = {}
        self.broken: set[int] = set()

    def make_run(self, ledger_id: int) -> Callable[[list[str]], Awaitable[Sequence[str | BaseException]]]:
        """Return the `run` of a ledger's coalescer."""

        async def run(items: list[str]) -> list[str]:
            self.batches.append((ledger_id, items))
            if ledger_id in self.shut:
                await self.shut[ledger_id].wait()
            if ledger_id in self.broken:
                raise OSError("gone")
            return [f"{ledger_id}:{item}" for item in items]

        return run

    def lanes(self) -> LedgerLanes[str, str]:
        """Return lanes in front of the stores."""
        return LedgerLanes(self.make_run, batch_max=2, in_flight_max=1, queue_max=3)


async def test_ledgers_never_share_a_batch() -> None:
    """Requests of two ledgers in one turn of the loop make two batches."""
    stores = Stores()
    lanes = stores.lanes()
    async with asyncio.timeout(WAIT_SECONDS):
        answers = await asyncio.gather(*(lanes.submit(ledger_id, "a") for ledger_id in (1, 2, 1)))
    assert answers == ["1:a", "2:a", "1:a"]
    assert sorted(stores.batches) == [(1, ["a", "a"]), (2, ["a"])]


async def test_a_stuck_ledger_holds_up_no_other() -> None:
    """A ledger with a full queue and a store that hangs is refused, and the others are served."""
    stores = Stores()
    stores.shut[1] = asyncio.Event()
    lanes = stores.lanes()
    futures = [lanes.submit(1, str(number)) for number in range(2)]
    await asyncio.sleep(0)
    futures += [lanes.submit(1, str(number)) for number in range(3)]
    with pytest.raises(QueueFullError):
        lanes.submit(1, "too much")
    async with asyncio.timeout(WAIT_SECONDS):
        assert await lanes.submit(2, "b") == "2:b"
        stores.shut[1].set()
        await lanes.drain()
    assert all(future.done() for future in futures)


async def test_a_failing_ledger_fails_no_other() -> None:
    """An exception in one ledger's store fails only requests in its lane."""
    stores = Stores()
    stores.broken.add(1)
    lanes = stores.lanes()
    async with asyncio.timeout(WAIT_SECONDS):
        answers = await asyncio.gather(lanes.submit(1, "a"), lanes.submit(2, "b"), return_exceptions=True)
    assert isinstance(answers[0], OSError)
    assert answers[1] == "2:b"


async def test_lanes_are_bounded_and_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ledgers beyond the limit are refused while all lanes are busy; an idle lane is dropped for a new one, a busy one
    never.
    """
    monkeypatch.setattr(module, "LANES_MAX", 2)
    stores = Stores()
    stores.shut[1] = asyncio.Event()
    stores.shut[2] = asyncio.Event()
    lanes = stores.lanes()
    first, second = lanes.submit(1, "a"), lanes.submit(2, "b")
    with pytest.raises(QueueFullError):
        lanes.submit(3, "c")
    async with asyncio.timeout(WAIT_SECONDS):
        stores.shut[2].set()
        assert await second == "2:b"
        # The task of a batch ends one turn of the loop after its callers are answered.
        await asyncio.sleep(0)
        assert await lanes.submit(3, "c") == "3:c"
        assert not first.done()
        stores.shut[1].set()
        assert await first == "1:a"
        await lanes.drain()
    assert len(lanes._lanes) <= 2


async def test_drain_waits_for_every_ledger() -> None:
    """A drain returns when no lane has anything left."""
    stores = Stores()
    stores.shut[2] = asyncio.Event()
    lanes = stores.lanes()
    futures = [lanes.submit(1, "a"), lanes.submit(2, "b")]
    drained = asyncio.create_task(lanes.drain())
    await asyncio.gather(futures[0])
    assert not drained.done()
    stores.shut[2].set()
    async with asyncio.timeout(WAIT_SECONDS):
        await drained
    assert futures[1].done()
