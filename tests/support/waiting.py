"""Waits for conditions that no event announces."""

import asyncio
from collections.abc import Awaitable, Callable

# Seconds between the first two checks, the factor from each pause to the next, and the longest pause. Pauses grow
# because a check may be a request to a process or a connection to Postgres.
LOOK_SECONDS = 0.005
LOOK_LATER = 1.2
LOOK_SECONDS_MAX = 0.05
# Seconds after which a wait counts as endless, even on a machine that is busy with other programs. No test says how
# fast something is.
WAIT_SECONDS = 45.0


async def until(condition: "Callable[[], bool] | Callable[[], Awaitable[bool]]", seconds: float = WAIT_SECONDS) -> None:
    """Wait until *condition* holds; raise TimeoutError if it does not in time."""
    pause = LOOK_SECONDS
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(pause)
            pause = min(pause * LOOK_LATER, LOOK_SECONDS_MAX)
