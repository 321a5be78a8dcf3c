"""Waits for a semaphore, for a limited time."""

import asyncio

from server.store.by_hand import needs_task


async def acquired(semaphore: asyncio.Semaphore, seconds: float) -> bool:
    """Acquire a semaphore and return True, or return False if it was not free within this many seconds."""
    if not semaphore.locked():
        return await semaphore.acquire()
    await needs_task()
    try:
        async with asyncio.timeout(seconds):
            return await semaphore.acquire()
    except TimeoutError:
        return False
