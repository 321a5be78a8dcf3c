"""Jobs go on whatever becomes of a step, with pauses that grow and end, and without a line for each failure."""

import asyncio
import logging
from collections.abc import Iterable

import pytest

from server.background.jobs import PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS, keep, pause_seconds
from server.store.background import stop
from server.store.errors import StoreUnavailableError
from server.telemetry.metrics import Sample
from tests.support.waiting import until


class Failing:
    """A job whose first steps fail."""

    name = "the job"

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.steps = 0
        self.closed = 0

    async def step(self) -> float:
        self.steps += 1
        if self._errors:
            raise self._errors.pop(0)
        return 0.0

    async def close(self) -> None:
        self.closed += 1

    def samples(self) -> Iterable[Sample]:
        return ()


async def test_what_passes(caplog: pytest.LogCaptureFixture) -> None:
    """A store that is away is said once, and once that the job goes on."""
    caplog.set_level(logging.INFO)
    job = Failing(StoreUnavailableError("away"), StoreUnavailableError("away"))
    running = asyncio.create_task(keep(job))
    await until(lambda: job.steps > 10)
    await stop(running)
    assert [record.getMessage() for record in caplog.records] == ["the job is held up: away", "the job goes on"]
    assert job.closed == 1


async def test_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the program has its traceback in the log, and the next step is made all the same."""
    job = Failing(ZeroDivisionError())
    running = asyncio.create_task(keep(job))
    await until(lambda: job.steps > 10)
    await stop(running)
    assert "the job failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_pauses() -> None:
    """They begin short, grow, and have an end."""
    pauses = [pause_seconds(failures) for failures in range(1, 100)]
    assert pauses[0] == PAUSE_FIRST_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_SECONDS
