"""Background tasks can be ended, even if one cancellation is not enough."""

import asyncio
import logging

import pytest

from server.store import background
from server.store.background import stop


async def test_a_swallowed_cancellation_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that survives its first cancellation, as drivers may cause, is ended by the next one."""
    monkeypatch.setattr(background, "CANCEL_SECONDS", 0.01)
    heard = 0

    async def work() -> None:
        nonlocal heard
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard += 1
                if heard == 2:
                    raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await stop(task, None)
    assert (heard, task.cancelled()) == (2, True)


async def test_a_task_that_does_not_end_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that ignores all cancellations is given up after a while and logged."""
    monkeypatch.setattr(background, "CANCEL_SECONDS", 0.01)
    end = asyncio.Event()

    async def work() -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    with caplog.at_level(logging.WARNING):
        await stop(task)
    assert not task.done()
    assert "do not end: 1" in caplog.text
    end.set()
    await task
