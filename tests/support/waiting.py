"""Waiting for what nothing announces."""

import asyncio
from collections.abc import Awaitable, Callable

# Seconds between the first two looks, how much longer each pause is than the one before, and the longest pause: a look
# may be a request to a process, or a connection to Postgres.
LOOK_SECONDS = 0.005
LOOK_LATER = 1.2
LOOK_SECONDS_MAX = 0.05


async def until(condition: "Callable[[], bool] | Callable[[], Awaitable[bool]]", seconds: float = 15.0) -> None:
    """Return when *condition* holds; fail when it does not in time."""
    pause = LOOK_SECONDS
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(pause)
            pause = min(pause * LOOK_LATER, LOOK_SECONDS_MAX)
