"""Coroutines run by hand: when they begin, what they may wait for, and how their ends are reported."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

from server.store.by_hand import ByHand, needs_task

# Seconds in which a coroutine that does not wait has ended.
PATIENCE_SECONDS = 30.0


class Told:
    """Records the ends of coroutines, and how many were running then."""

    def __init__(self) -> None:
        self.running = ByHand(self._ended)
        self.left: list[int] = []

    def _ended(self) -> None:
        self.left.append(len(self.running))

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.running.start(coroutine)


async def test_it_begins_at_once() -> None:
    """A coroutine that does not wait has ended when `start` returns."""
    told, done = Told(), []

    async def run() -> None:
        done.append("done")

    told.start(run())
    assert (done, told.left, len(told.running)) == (["done"], [0], 0)


async def test_it_goes_on_when_its_future_is_there() -> None:
    """A coroutine gets the results, failures and cancellations of the futures that it waits for."""
    told, heard = Told(), []
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[str]] = [loop.create_future() for _ in range(3)]

    async def run() -> None:
        for future in futures:
            try:
                heard.append(await future)
            except (OSError, asyncio.CancelledError) as error:
                heard.append(type(error).__name__)

    told.start(run())
    assert heard == []
    futures[0].set_result("first")
    futures[1].set_exception(ConnectionResetError())
    futures[2].cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await told.running.one_ended()
    assert (heard, told.left) == (["first", "ConnectionResetError", "CancelledError"], [0])


async def test_it_gets_a_task_when_it_needs_one() -> None:
    """After `needs_task` timeouts work in the coroutine, and its end is reported like any other."""
    told, heard = Told(), []

    async def run() -> None:
        assert asyncio.current_task() is None
        await needs_task()
        try:
            async with asyncio.timeout(0.001):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            heard.append("late")

    # Started from a callback, because the test itself runs in a task.
    asyncio.get_running_loop().call_soon(told.start, run())
    await asyncio.sleep(0)
    assert len(told.running) == 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        await told.running.one_ended()
    assert (heard, told.left) == (["late"], [0])


async def test_nobody_else_need_hold_it() -> None:
    """A coroutine whose future has no other reference survives a garbage collection."""
    told, heard = Told(), []

    async def run() -> None:
        await asyncio.sleep(0.01)
        heard.append("slept")

    told.start(run())
    gc.collect()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await told.running.one_ended()
    assert heard == ["slept"]


async def test_whoever_stops_waiting_for_an_end_takes_nothing_away() -> None:
    """If one of several waiters for the next end is cancelled, the others are still told."""
    told = Told()
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        await gate

    told.start(run())
    waiting = [asyncio.create_task(told.running.one_ended()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.set_result(None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*waiting[1:])
    assert waiting[0].cancelled()
