"""Runs a transaction again until its outcome is known; running it again must not change its effect."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_random_exponential

from server.store.errors import (
    DuplicateError,
    OutcomeUnknownError,
    RowLockedError,
    StoreAwayError,
    StoreUnavailableError,
)
from server.store.sessions import COMMAND_TIMEOUT_SECONDS, LOCK_TIMEOUT_MS

T = TypeVar("T")

# Seconds between sendings: full jitter, growing from the first to the last.
WAIT_FIRST_SECONDS = 0.02
WAIT_LAST_SECONDS = 0.5
# Minimum time left in which a statement is still sent. The server gives up on a locked row after twice its lock timeout
# (a turn in the queue for the row, then the row), and its definite answer must come before we stop waiting for it.
SENDING_MIN_SECONDS = 2 * LOCK_TIMEOUT_MS / 1000 + 0.25

# A duplicate means that another transaction has just bound the same key: when sent again, our transaction finds it.
_RETRIED = (StoreUnavailableError, OutcomeUnknownError, DuplicateError)


async def resend(send: Callable[[bool], Awaitable[T]], deadline: float, *, while_away: bool = True) -> T:
    """
    Return what *send* returns, calling it again after transient failures until *deadline*.

    Args:
        send: Runs one transaction that finds out for itself what an earlier sending did. Its argument says whether an
            earlier sending was lost on the way and may still be running. It raises `OutcomeUnknownError` where it
            cannot say what was done.

        deadline: On the clock of `time.monotonic`; no sending starts after it.

        while_away: Whether to go on after a sending was lost, even while the store is known to be away or a row is
            locked. If no sending was lost, these two failures are raised at once.

    Raises:
        RowLockedError: A row is locked; nothing was done.
        StoreUnavailableError: Nothing was done.
        OutcomeUnknownError: A sending was lost on the way, and no later one found out what it did.
        DatabaseError: Postgres refuses.
    """
    lost = False

    def again(error: BaseException) -> bool:
        nonlocal lost
        lost = lost or isinstance(error, OutcomeUnknownError)
        if isinstance(error, StoreAwayError | RowLockedError):
            return lost and while_away
        return isinstance(error, _RETRIED)

    try:
        try:
            # The retrying machinery costs more than a whole posting, so it is entered only after a failure.
            return await send(False)
        except _RETRIED as error:
            if not again(error):
                raise
        async for trial in AsyncRetrying(
            stop=stop_before_delay(max(0.0, deadline - time.monotonic())),
            wait=wait_random_exponential(WAIT_FIRST_SECONDS, max=WAIT_LAST_SECONDS),
            retry=retry_if_exception(again),
            reraise=True,
        ):
            with trial:
                return await send(lost)
    except _RETRIED as error:
        if lost:
            raise OutcomeUnknownError(str(error)) from error
        if isinstance(error, DuplicateError):
            raise StoreUnavailableError(error.kind) from error
        raise
    raise AssertionError("unreachable: the last trial returns or raises")


def statement_seconds(deadline: float) -> float:
    """
    Return how many seconds a statement may take that is sent now.

    Raises:
        StoreUnavailableError: Too little time is left; nothing was sent.
    """
    left = deadline - time.monotonic()
    if left < SENDING_MIN_SECONDS:
        raise StoreUnavailableError("too little time is left")
    return min(COMMAND_TIMEOUT_SECONDS, left)
