"""Jobs: steps that are repeated for as long as the process leads, even if some of them fail."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, Protocol

from server.ledger.posting import KeyInUseError
from server.store.background import growing_pause
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError
from server.telemetry.metrics import Sample

# Seconds before a failed step is tried again: short at first, and never so long that work waits for it when
# PostgreSQL is back.
PAUSE_FIRST_SECONDS: Final = 0.25
PAUSE_MAX_SECONDS: Final = 5.0

# Errors that are not the program's fault: a store is away, busy, or refuses.
PASSING: Final = (StoreError, DatabaseError, QueueFullError, KeyInUseError)

log = logging.getLogger(__name__)


class Job(Protocol):
    """
    Work in steps. A step may be cancelled, and two processes may run it at once for a moment.

    Attributes:
        name: The job's name in the log.
    """

    name: str

    async def step(self) -> float:
        """
        Do what is due, and return the seconds until the next step.

        Raises:
            Exception: The step failed; it is tried again after a pause.
        """

    async def close(self) -> None:
        """End what a step has left running, since this process no longer leads."""

    def samples(self) -> Iterable[Sample]:
        """Return the job's metrics."""


def pause_seconds(failures: int) -> float:
    """Return the pause after this many failures in a row."""
    return growing_pause(failures, PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS)


async def keep(job: Job) -> None:
    """Repeat the steps of a job until it is cancelled, and close it."""
    failures = 0
    try:
        while True:
            try:
                pause = await job.step()
                if failures:
                    log.info("%s goes on", job.name)
                failures = 0
            except PASSING as error:
                if not failures:
                    log.warning("%s is held up: %s", job.name, str(error) or type(error).__name__)
                failures += 1
                pause = pause_seconds(failures)
            except Exception:
                log.exception("%s failed", job.name)
                failures += 1
                pause = pause_seconds(failures)
            await asyncio.sleep(pause)
    finally:
        await job.close()
