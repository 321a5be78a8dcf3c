"""Taking turns: a few at once, a bounded number waiting, and nobody for long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.store.coalescer import QueueFullError
from server.store.errors import StoreUnavailableError


class Turns:
    """
    Turns at something that several share.

    Args:
        at_once: Who may have a turn at one time.

        waiters_max: Who may wait for one.

        wait_seconds: How long they wait at most.
    """

    def __init__(self, at_once: int, *, waiters_max: int, wait_seconds: float) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._room = at_once + waiters_max
        self._wait_seconds = wait_seconds

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """
        Have a turn.

        Raises:
            QueueFullError: Too many wait already.
            StoreUnavailableError: None came in time.
        """
        if not self._room:
            raise QueueFullError
        self._room -= 1
        try:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    await self._free.acquire()
            except TimeoutError as error:
                raise StoreUnavailableError("waited too long for a turn") from error
            try:
                yield
            finally:
                self._free.release()
        finally:
            self._room += 1
