"""Coroutines run by hand: when they begin, what they may wait for, and what is known of them."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

from server.store.by_hand import ByHand, needs_task

# Seconds in which what waits for nothing has ended.
PATIENCE_SECONDS = 5.0


class Told:
    """Notes the ends of coroutines, and how many ran then."""

    def __init__(self) -> None:
        self.running = ByHand(self._ended)
        self.left: list[int] = []

    def _ended(self) -> None:
        self.left.append(len(self.running))

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.running.start(coroutine)


async def test_it_begins_at_once() -> None:
    """What waits for nothing has ended when `start` returns."""
    told, done = Told(), []

    async def run() -> None:
        done.append("done")

    told.start(run())
    assert (done, told.left, len(told.running)) == (["done"], [0], 0)


async def test_it_goes_on_when_its_future_is_there() -> None:
    """It gets the results of what it waits for, and the failures and cancellations."""
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
    """Timeouts work from there on, and its end is told as any other."""
    told, heard = Told(), []

    async def run() -> None:
        assert asyncio.current_task() is None
        await needs_task()
        try:
            async with asyncio.timeout(0.001):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            heard.append("late")

    # From a callback: the test itself is a task.
    asyncio.get_running_loop().call_soon(told.start, run())
    await asyncio.sleep(0)
    assert len(told.running) == 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        await told.running.one_ended()
    assert (heard, told.left) == (["late"], [0])


async def test_nobody_else_need_hold_it() -> None:
    """One whose future nobody else refers to is still there after a collection."""
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
    """Of several who wait for the next end one may leave; the others hear of it."""
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
