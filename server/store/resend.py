"""Sending a transaction again until its outcome is known: idempotency keys make it safe."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_random_exponential

from server.store.errors import OutcomeUnknownError, RowLockedError, StoreAwayError, StoreUnavailableError
from server.store.postgres import Database
from server.store.sessions import COMMAND_TIMEOUT_SECONDS, CONNECTION_LOST, LOCK_TIMEOUT_MS, REFUSED_FOR_NOW

T = TypeVar("T")

# Seconds between sendings: full jitter, growing from the first to the last.
WAIT_FIRST_SECONDS = 0.02
WAIT_LAST_SECONDS = 0.5
# Least time left in which a statement is still sent. The server gives up on a locked row after twice its lock timeout
# (a turn in the queue for the row, then the row), and its definite answer must come before we stop waiting for it.
SENDING_MIN_SECONDS = 2 * LOCK_TIMEOUT_MS / 1000 + 0.25

_UNKNOWN = (OutcomeUnknownError, *CONNECTION_LOST)
_RETRIED = (StoreUnavailableError, asyncpg.UniqueViolationError, *_UNKNOWN, *REFUSED_FOR_NOW)


async def resend(send: Callable[[bool], Awaitable[T]], database: Database, deadline: float) -> T:
    """
    Return what *send* returns, calling it again after operational failures until *deadline*.

    While the store is known to be away this waits for it only when a sending was lost on the way: what nobody has
    sent is refused at once.

    Args:
        send: Runs one transaction that finds out for itself what an earlier sending did. Takes whether one was lost
            on the way, which may be at work still. It raises `OutcomeUnknownError` where the server answered and it
            still cannot say what was done.

        database: Is told of failures, so that it replaces its connections.

        deadline: On the clock of `time.monotonic`; no sending starts after it.

    Raises:
        RowLockedError: A row is locked; nothing was done, and nothing is retried here.
        StoreUnavailableError: No sending took effect.
        OutcomeUnknownError: A sending was lost on the way, and none after it found out.
    """
    lost = False

    async def attempt() -> T:
        nonlocal lost
        try:
            return await send(lost)
        except _UNKNOWN:
            lost = True
            raise

    def worth_another(error: BaseException) -> bool:
        # Whoever has sent nothing yet knows better than to wait here for a locked row, or a store that is away.
        return isinstance(error, _RETRIED) and (lost or not isinstance(error, StoreAwayError | RowLockedError))

    try:
        try:
            # The retrying machinery costs more than a whole posting, so it is entered only after a failure.
            return await attempt()
        except _RETRIED as error:
            if not worth_another(error):
                raise
            await _note(database, error)
        async for trial in AsyncRetrying(
            stop=stop_before_delay(max(0.0, deadline - time.monotonic())),
            wait=wait_random_exponential(WAIT_FIRST_SECONDS, max=WAIT_LAST_SECONDS),
            retry=retry_if_exception(worth_another),
            reraise=True,
        ):
            with trial:
                try:
                    return await attempt()
                except _RETRIED as error:
                    await _note(database, error)
                    raise
    except _RETRIED as error:
        if isinstance(error, RowLockedError) and not lost:
            raise
        if lost:
            raise OutcomeUnknownError(type(error).__name__) from error
        raise StoreUnavailableError(type(error).__name__) from error
    raise AssertionError("unreachable: the last trial returns or raises")


async def _note(database: Database, error: BaseException) -> None:
    # That none could be sent has been noted where it was found out.
    if not isinstance(error, StoreUnavailableError):
        await database.after_failure(error)


def statement_seconds(deadline: float) -> float:
    """
    Return how long a statement may take that is sent now.

    Raises:
        StoreUnavailableError: Too little time is left; nothing was sent.
    """
    left = deadline - time.monotonic()
    if left < SENDING_MIN_SECONDS:
        raise StoreUnavailableError("too little time is left")
    return min(COMMAND_TIMEOUT_SECONDS, left)
