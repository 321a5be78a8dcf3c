"""Limits how many transfers of bulks a worker has under way at once: further bulks wait undecoded or are refused."""

import asyncio
import time
from collections import deque
from typing import NamedTuple

from server.store.coalescer import QueueFullError

# Transfers of the bulks of one ledger that a worker has under way at once: two batches that PostgreSQL posts, one that
# goes next, and one that is being answered. More would not be done sooner, but would take more memory than a
# processor's caches hold: a decoded transfer takes a kilobyte, an undecoded one a tenth of that.
TRANSFERS_MAX = 2_000
# Bulks of all ledgers that may wait in a worker, each holding a place of the admission. The remaining places are for
# other writes. The waiting bulks take 64 MiB at most, and usually 4.
WAITING_MAX = 64
# Seconds that a bulk may wait: the caller is usually a program that has time, not a person who waits. The rest of its
# deadline is enough to post it.
WAIT_SECONDS = 4.0


class Room:
    """
    The room that the transfers of one bulk take, from before it is decoded until it has been answered.

    Attributes:
        began: When the bulk asked for room, on the clock of `time.monotonic`, in seconds.
    """

    __slots__ = ("_admission", "_ledger_id", "_transfers", "began")

    def __init__(self, admission: "BulkAdmission", ledger_id: int, transfers: int, began: float) -> None:
        self._admission = admission
        self._ledger_id = ledger_id
        self._transfers = transfers
        self.began = began

    def leave(self) -> None:
        """Give the room back, for waiting bulks; further calls do nothing."""
        transfers, self._transfers = self._transfers, 0
        if transfers:
            self._admission.leave(self._ledger_id, transfers)


class _Waiting(NamedTuple):
    transfers: int
    admitted: asyncio.Future[bool]


class _Ledger:
    """The bulks of a ledger: the number of transfers under way, and the waiting bulks in order of arrival."""

    __slots__ = ("transfers", "waiting")

    def __init__(self) -> None:
        self.transfers = 0
        self.waiting: deque[_Waiting] = deque()

    def admit(self) -> None:
        """Give free room to waiting bulks, strictly in order of arrival."""
        while self.waiting:
            transfers, admitted = self.waiting[0]
            if not admitted.done():
                if self.transfers + transfers > TRANSFERS_MAX:
                    return
                self.transfers += transfers
                admitted.set_result(True)
            self.waiting.popleft()


class BulkAdmission:
    """
    Counts the transfers of bulks under way in this worker, and admits waiting bulks when others of their ledger end.

    Attributes:
        waiting: How many bulks wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._ledgers: dict[int, _Ledger] = {}

    async def enter(self, ledger_id: int, transfers: int) -> Room:
        """
        Return room for the transfers of a bulk, waiting for it if necessary. It awaits nothing but a future.

        Raises:
            QueueFullError: No room became free in time, or too many bulks wait for it.
        """
        room = Room(self, ledger_id, transfers, time.monotonic())
        ledger = self._ledgers.get(ledger_id)
        if ledger is None:
            ledger = self._ledgers[ledger_id] = _Ledger()
        if ledger.waiting or ledger.transfers + transfers > TRANSFERS_MAX:
            await self._wait(ledger, room, transfers)
        else:
            ledger.transfers += transfers
        return room

    def leave(self, ledger_id: int, transfers: int) -> None:
        """Give back the room of so many transfers."""
        ledger = self._ledgers[ledger_id]
        ledger.transfers -= transfers
        ledger.admit()
        if not ledger.transfers:
            del self._ledgers[ledger_id]

    async def _wait(self, ledger: _Ledger, room: Room, transfers: int) -> None:
        if self.waiting >= WAITING_MAX:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        waiting = _Waiting(transfers, loop.create_future())
        ledger.waiting.append(waiting)
        self.waiting += 1
        timer = loop.call_later(WAIT_SECONDS, _refuse, waiting.admitted)
        admitted = False
        try:
            admitted = await waiting.admitted
        except asyncio.CancelledError:
            if not waiting.admitted.cancelled() and waiting.admitted.result():
                room.leave()
            raise
        finally:
            timer.cancel()
            self.waiting -= 1
            if not admitted:
                # The bulk behind this one may be small enough.
                ledger.admit()
        if not admitted:
            raise QueueFullError


def _refuse(admitted: asyncio.Future[bool]) -> None:
    if not admitted.done():
        admitted.set_result(False)
