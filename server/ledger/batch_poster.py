"""Posts a batch so that no unit pays for another unit's locked accounts or errors."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from server.ledger.row_locks import RowLocks
from server.ledger.sending import BatchSender
from server.ledger.unit import Unit
from server.store.errors import DatabaseError, RowLockedError, StoreError
from server.store.sessions import LOCK_TIMEOUT_MS

# A batch of several ledgers waits for a locked row as long as this many batches usually take, and at least this many
# seconds, since another batch of this or another worker may hold the row. A transaction that holds the row longer must
# not delay the other ledgers of the batch.
BATCHES_WAITED_FOR: Final = 4
SHARED_WAIT_MIN_SECONDS: Final = 0.1
# How fast the usual time falls when batches get shorter: within ten batches or so. It rises at once.
FALLING_SHARE: Final = 0.1
# Statements in flight that retry units of one ledger and do not wait for locks: shared batches need connections, too.
APART_IN_FLIGHT_MAX: Final = 2

log = logging.getLogger(__name__)


class BatchPoster:
    """
    Posts the units of a batch, even when some of them fail or meet locked accounts.

    Args:
        sender: Sends the units.

        rows: Knows the locked accounts.
    """

    def __init__(self, sender: BatchSender, rows: RowLocks) -> None:
        self._sender = sender
        self._rows = rows
        self._apart_in_flight = asyncio.Semaphore(APART_IN_FLIGHT_MAX)
        # Seconds from sending a batch of several ledgers to its end.
        self._usual_seconds = 0.0

    async def post_shared(self, units: list[Unit]) -> None:
        """
        Post units of any ledgers and set the result of each.

        The result of a unit that needs a locked row is a RowLockedError.
        """
        await self._post_units(units, self._send_shared)

    async def post_apart(self, units: list[Unit]) -> None:
        """Do the same for units of one ledger that have met locked rows, waiting for accounts that are not stuck."""
        stuck = [unit for unit in units if self._rows.stuck(unit.ledger_id, unit.accounts)]
        await self._post_units(stuck, self._send_free)
        await self._post_units([unit for unit in units if unit not in stuck], self._send_waiting)

    async def _post_units(self, units: list[Unit], send: Callable[[list[Unit]], Awaitable[None]]) -> None:
        """Post units together; if one of them makes the batch fail, halve the batch until that unit is alone."""
        batches = [units] if units else []
        while batches:
            batch = batches.pop()
            try:
                await send(batch)
            except RowLockedError:
                for unit in batch:
                    unit.result = RowLockedError(unit.accounts)
            except StoreError as error:
                for unit in batch:
                    unit.result = error
            except Exception as error:
                if len(batch) == 1:
                    # The caller logs it, under the id of its request.
                    batch[0].result = error
                    continue
                kind = error.kind if isinstance(error, DatabaseError) else type(error).__name__
                log.warning("a batch of %d units failed (%s): sent again in halves", len(batch), kind)
                batches += reversed(_halves(batch))

    async def _send_shared(self, units: list[Unit]) -> None:
        """Send units of any ledgers, waiting briefly for locked rows of contended ledgers."""
        waits = self._rows.contended({unit.ledger_id for unit in units})
        if waits and self._rows.any_stuck:
            waits -= {unit.ledger_id for unit in units if self._rows.stuck(unit.ledger_id, unit.accounts)}
        if waits:
            try:
                await self._send_timed(units, waits)
                return
            except RowLockedError:
                # The wait timed out. The next batch finds out which ledgers have locked rows, and posts all others.
                pass
        await self._send_timed(units, ())
        if waits:
            self._rows.note_held_up({unit.ledger_id for unit in units if isinstance(unit.result, RowLockedError)})

    async def _send_timed(self, units: list[Unit], waits: Collection[int]) -> None:
        """Send units, waiting for rows of the ledgers *waits* only as long as the usual time allows."""
        wait_seconds = max(SHARED_WAIT_MIN_SECONDS, BATCHES_WAITED_FOR * self._usual_seconds)
        began = time.monotonic()
        await self._sender.send(units, waits=waits, wait_ms=min(LOCK_TIMEOUT_MS, round(1000 * wait_seconds)))
        seconds, usual = time.monotonic() - began, self._usual_seconds
        self._usual_seconds = seconds if seconds > usual else usual + FALLING_SHARE * (seconds - usual)

    async def _send_free(self, units: list[Unit]) -> None:
        """Send units of one ledger without waiting for its rows."""
        async with self._apart_in_flight:
            await self._sender.send(units)

    async def _send_waiting(self, units: list[Unit]) -> None:
        """Send units of one ledger, waiting for locked accounts unless too many statements already wait."""
        ledger_id = units[0].ledger_id
        turns = self._rows.posting_lock_waits
        if turns.locked():
            await self._send_free(units)
            return
        async with turns:
            try:
                await self._sender.send(units, waits=(ledger_id,))
                # No statement waits for the progress of a parent: if only such rows were locked, no account was.
                if not all(isinstance(unit.result, RowLockedError) for unit in units):
                    self._rows.note_contended(ledger_id)
                return
            except RowLockedError:
                # The wait timed out. The next batch finds out which accounts are locked, and posts units that do not
                # need them.
                pass
        await self._send_free(units)
        for unit in units:
            if isinstance(unit.result, RowLockedError):
                self._rows.note_stuck(ledger_id, unit.result.accounts)


def _halves(units: list[Unit]) -> tuple[list[Unit], list[Unit]]:
    """Return two parts of a batch: each has half of the ledgers, or half of the units if there is only one ledger."""
    ledgers = sorted({unit.ledger_id for unit in units})
    if len(ledgers) == 1:
        half = len(units) // 2
        return units[:half], units[half:]
    middle = ledgers[len(ledgers) // 2]
    return [unit for unit in units if unit.ledger_id < middle], [unit for unit in units if unit.ledger_id >= middle]
