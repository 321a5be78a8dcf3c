"""Waiting for a semaphore, but not for long."""

import asyncio

from server.store.by_hand import needs_task


async def acquired(semaphore: asyncio.Semaphore, seconds: float) -> bool:
    """Acquire a semaphore and return True, or False when it was not free within so many seconds."""
    if not semaphore.locked():
        return await semaphore.acquire()
    await needs_task()
    try:
        async with asyncio.timeout(seconds):
            return await semaphore.acquire()
    except TimeoutError:
        return False
