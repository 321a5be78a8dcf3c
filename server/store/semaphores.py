"""Waiting for a semaphore, but not for long."""

import asyncio


async def acquired(semaphore: asyncio.Semaphore, seconds: float) -> bool:
    """Acquire a semaphore and return True, or False when it was not free within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await semaphore.acquire()
    except TimeoutError:
        return False
