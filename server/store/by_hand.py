"""Coroutines that are run by hand: what tasks do, without their cost."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


@types.coroutine
def needs_task() -> Generator[None, None, None]:
    """
    Let the rest of a coroutine run in a task.

    A coroutine can be run by hand as long as it waits for nothing but futures. Timeouts of asyncio, and so the clients
    of PostgreSQL and Redis while they connect, need a task.
    """
    yield


class ByHand:
    """
    Runs coroutines: each at once as far as it gets, then whenever what it waits for is there.

    A task would begin in the next tick of the loop, and costs as much as a short batch.

    Args:
        ended: Called each time one has ended.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._told = ended
        # The coroutines that have not ended, and the tasks of those that needed one: the loop itself keeps neither.
        self._running: dict[Coroutine[Any, Any, None], asyncio.Task[None] | None] = {}
        self._next_end: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._running)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, which raises nothing."""
        self._running[coroutine] = None
        self._step(coroutine)

    async def one_ended(self) -> None:
        """Return when the next one has ended."""
        if self._next_end is None:
            self._next_end = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next_end)

    def _step(self, coroutine: Coroutine[Any, Any, None], _waited_for: "asyncio.Future[Any] | None" = None) -> None:
        """Run a coroutine to where it waits next, or to its end."""
        try:
            future = coroutine.send(None)
        except StopIteration:
            self._ended(coroutine)
            return
        except BaseException:
            self._ended(coroutine)
            raise
        if future is None:
            task = asyncio.get_running_loop().create_task(coroutine)
            self._running[coroutine] = task
            task.add_done_callback(lambda _: self._ended(coroutine))
            return
        # As a task does with what its coroutine waits for.
        future._asyncio_future_blocking = False
        future.add_done_callback(partial(self._step, coroutine))

    def _ended(self, coroutine: Coroutine[Any, Any, None]) -> None:
        del self._running[coroutine]
        if self._next_end is not None:
            self._next_end.set_result(None)
            self._next_end = None
        self._told()
