"""Waiting for what nothing announces."""

import asyncio
from collections.abc import Awaitable, Callable

# Seconds between two looks.
LOOK_SECONDS = 0.005


async def until(condition: "Callable[[], bool] | Callable[[], Awaitable[bool]]", seconds: float = 15.0) -> None:
    """Return when *condition* holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(LOOK_SECONDS)
