"""
The sweeper posts the `expiry` of due holds.

A hold reserves nothing from the instant of its expiry on, whether or not it has been swept: readers and postings leave
it out. The posted expiry makes the stored balances say the same, and records when the hold ended. An expiry is posted
once however often it is tried: its key is made of the hold's id, and it is decided under the locks of both accounts.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from server.background.jobs import PASSING
from server.ledger.expiry_requests import expiry
from server.ledger.limits import TIME_MIN
from server.ledger.posting import DEADLINE_SECONDS, PostingLane
from server.ledger.transfers import Bound, TransferRequest
from server.store.background import stop
from server.store.errors import RowLockedError
from server.store.postgres import Database
from server.telemetry.metrics import LAG_DIGITS, Sample

# Expiries posted together: enough to share a commit, and few enough that callers' postings never wait long for them.
BATCH_MAX: Final = 200
# Ledgers that one statement looks at: some milliseconds of index look-ups.
LEDGERS_PAGE: Final = 1_000
# Ledgers that are swept at once. Ledgers with locked accounts take seconds, and few are locked at a time.
LEDGERS_MAX: Final = 64
# Most seconds between two looks: a hold that was made after a look and is already due is found then. Least seconds
# between two looks, so that holds that expire one after another are posted together.
LOOK_SECONDS: Final = 1.0
LOOK_MIN_SECONDS: Final = 0.1
# Seconds that a batch may take in all. Nobody waits for its answer, and the batches behind it should not wait for
# accounts that stay locked.
PATIENCE_SECONDS: Final = 2.0
# Seconds for which a ledger is skipped after some of its holds could not be expired.
LEFT_SECONDS: Final = 2.0

_ID_MIN: Final = UUID(int=0)

log = logging.getLogger(__name__)


class Sweeper:
    """
    Finds due holds and posts their expiries, a few ledgers at once, so that one with locked accounts delays no other.

    Args:
        database: Where the holds are.

        posting: Posts the expiries.

    Attributes:
        swept: Number of expiries that were posted.

        failures: How often holds of a ledger were left for later.
    """

    name = "the sweeper"

    def __init__(self, database: Database, posting: PostingLane) -> None:
        self._database = database
        self._posting = posting
        self.swept = 0
        self.failures = 0
        # Since when the oldest due hold has been due, as of the last look, on the clock of `time.monotonic`.
        self._due_since: float | None = None
        self._places = asyncio.Semaphore(LEDGERS_MAX)
        self._sweeping: dict[int, asyncio.Task[None]] = {}
        # Until when each ledger is skipped, on the same clock.
        self._left: dict[int, float] = {}

    @property
    def lag_seconds(self) -> float:
        """Seconds for which the oldest due hold has been due; 0 if none was at the last look."""
        return 0.0 if self._due_since is None else time.monotonic() - self._due_since

    async def step(self) -> float:
        """Look at all ledgers, begin to sweep those that have due holds, and return the seconds until the next look."""
        after, next_expiry, oldest = 0, LOOK_SECONDS, 0.0
        while True:
            page = await self._database.read("ledger_expiry_page", after, LEDGERS_PAGE)
            for ledger_id, seconds in page:
                if seconds is None:
                    continue
                if seconds > 0:
                    next_expiry = min(next_expiry, seconds)
                    continue
                oldest = max(oldest, -seconds)
                if ledger_id not in self._sweeping and self._left.get(ledger_id, 0.0) <= time.monotonic():
                    await self._places.acquire()
                    self._begin(ledger_id)
            if len(page) < LEDGERS_PAGE:
                break
            after = page[-1]["id"]
        self._due_since = time.monotonic() - oldest if oldest else None
        return max(LOOK_MIN_SECONDS, next_expiry)

    def samples(self) -> Iterator[Sample]:
        """Return the job's metrics."""
        yield Sample("tallystick_holds_expired_total", (), self.swept)
        yield Sample("tallystick_sweep_failures_total", (), self.failures)
        yield Sample("tallystick_sweep_lag_seconds", (), round(self.lag_seconds, LAG_DIGITS))

    async def close(self) -> None:
        """Stop sweeping. Batches in flight may still be posted."""
        await stop(*self._sweeping.values())
        self._left.clear()
        self._due_since = None

    def _begin(self, ledger_id: int) -> None:
        """Sweep a ledger in a task of its own, in a place that was acquired for it."""
        task = asyncio.create_task(self._sweep(ledger_id))
        self._sweeping[ledger_id] = task

        def ended(_: object) -> None:
            del self._sweeping[ledger_id]
            self._places.release()

        task.add_done_callback(ended)

    async def _sweep(self, ledger_id: int) -> None:
        """Expire the due holds of a ledger; if some cannot be expired now, skip the ledger for some seconds."""
        try:
            reason = await self._expire_all(ledger_id)
        except PASSING as error:
            reason = str(error) or type(error).__name__
        except Exception:
            log.exception("sweeping a ledger failed")
            reason = "a fault"
        if reason is None:
            self._left.pop(ledger_id, None)
            return
        self.failures += 1
        if ledger_id not in self._left:
            log.warning("due holds of ledger %d are left for later: %s", ledger_id, reason)
        self._left[ledger_id] = time.monotonic() + LEFT_SECONDS

    async def _expire_all(self, ledger_id: int) -> str | None:
        """Expire due holds of a ledger, oldest first; return why some of them are left, or None."""
        reason: str | None = None
        at: datetime = TIME_MIN
        last = _ID_MIN
        while True:
            page = await self._database.read("hold_due_page", ledger_id, at, last, BATCH_MAX)
            if page:
                reason = await self._expire(ledger_id, [row["id"] for row in page]) or reason
            if len(page) < BATCH_MAX:
                return reason
            # Continue after the holds that are left, so that they do not delay those behind them.
            last, at = page[-1]["id"], page[-1]["expires_at"]

    async def _expire(self, ledger_id: int, holds: Sequence[UUID]) -> str | None:
        """Post a batch of expiries; return why some of them are left, or None."""
        requests = [expiry(hold) for hold in holds]
        try:
            await self._post(ledger_id, requests)
            return None
        except RowLockedError:
            # A batch waits for the rows of all its holds. Posted one by one, only those with locked rows wait.
            pass
        posted = (self._post(ledger_id, [request]) for request in requests)
        failures = [error for error in await asyncio.gather(*posted, return_exceptions=True) if error is not None]
        for error in failures:
            if not isinstance(error, RowLockedError):
                raise error
        return str(failures[0]) if failures else None

    async def _post(self, ledger_id: int, requests: Sequence[TransferRequest]) -> None:
        """Post expiries, and count the new ones: not those posted before, nor of holds captured or voided since."""
        # They begin as if they had already waited, so that they give up sooner.
        began = time.monotonic() + PATIENCE_SECONDS - DEADLINE_SECONDS
        outcomes = await self._posting.post_many(ledger_id, requests, atomic=False, began=began)
        self.swept += sum(isinstance(outcome, Bound) and not outcome.replayed for outcome in outcomes)
