"""Background tasks: how they are stopped, and how long they pause after failures."""

import asyncio
import logging
from typing import Any

# Seconds after which a task that still runs is cancelled again: sooner would cut off its clean-up.
CANCEL_SECONDS = 1.0
# How often a task is cancelled: in all, as long as the longest wait of a statement.
CANCEL_MAX = 5
# Doublings after which a pause has certainly reached its maximum.
DOUBLINGS_MAX = 16

log = logging.getLogger(__name__)


async def stop(*tasks: "asyncio.Task[Any] | None") -> None:
    """
    Cancel tasks and return when they have ended.

    A task that still runs is cancelled again. A driver may swallow a cancellation: `asyncio.wait_for` of Python 3.11
    does so when the result arrives in the same moment, and redis-py waits that way. A task that ignores them all is
    left.

    Args:
        tasks: None stands for a task that was never started.
    """
    running = {task for task in tasks if task is not None}
    for _ in range(CANCEL_MAX):
        if not running:
            return
        for task in running:
            task.cancel()
        ended, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)
        # asyncio would log an error that is never retrieved.
        await asyncio.gather(*ended, return_exceptions=True)
    log.warning("background tasks do not end: %d", len(running))


def growing_pause(failures: int, first: float, longest: float) -> float:
    """Return the pause in seconds after this many failures in a row: it doubles from *first* up to *longest*."""
    return min(longest, first * 2.0 ** min(failures - 1, DOUBLINGS_MAX))
