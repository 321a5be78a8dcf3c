"""Runs coroutines by hand, as tasks do, but without the cost of a task."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


@types.coroutine
def needs_task() -> Generator[None, None, None]:
    """
    Hand the rest of this coroutine over to a task.

    A coroutine can be run by hand as long as it waits for nothing but futures. Timeouts of asyncio, and so the clients
    of PostgreSQL and Redis while they connect, need a task.
    """
    yield


class ByHand:
    """
    Runs coroutines: each at once as far as it gets, and again whenever the future that it waits for is done.

    A task would begin in the next tick of the loop, and costs as much as a short batch.

    Args:
        ended: Called each time a coroutine has ended.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._told = ended
        # The running coroutines, and the tasks of those that needed one: the loop itself keeps no reference to either.
        self._running: dict[Coroutine[Any, Any, None], asyncio.Task[None] | None] = {}
        self._next_end: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return how many coroutines are running."""
        return len(self._running)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that raises nothing."""
        self._running[coroutine] = None
        self._step(coroutine)

    async def one_ended(self) -> None:
        """Return when the next coroutine has ended."""
        if self._next_end is None:
            self._next_end = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next_end)

    def _step(self, coroutine: Coroutine[Any, Any, None], _waited_for: "asyncio.Future[Any] | None" = None) -> None:
        """Run a coroutine until it waits again, or to its end."""
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
        # A task does the same with the future that its coroutine waits for.
        future._asyncio_future_blocking = False
        future.add_done_callback(partial(self._step, coroutine))

    def _ended(self, coroutine: Coroutine[Any, Any, None]) -> None:
        del self._running[coroutine]
        if self._next_end is not None:
            self._next_end.set_result(None)
            self._next_end = None
        self._told()
