"""How many transfers of bulks a worker has under way at once: bulks on top wait undecoded, and are then refused."""

import asyncio
import time
from collections import deque
from typing import NamedTuple

from server.store.coalescer import QueueFullError

# Transfers of the bulks of one ledger that a worker has under way at once: two batches that PostgreSQL posts, one that
# goes next, and one that is answered. More would be done no sooner, but hold more memory than the caches of a processor
# do: a transfer takes a kilobyte once it is decoded, and a tenth of that as it came.
TRANSFERS_MAX = 2_000
# Bulks of all ledgers that may wait in a worker, each in a place of the admission: the places that they leave are for
# other writes. They hold 64 MiB at most, and usually 4.
WAITING_MAX = 64
# Seconds that a bulk may wait: it is asked for by a program that has time, rather than by a person who has not. What is
# left of its deadline is enough to post it.
WAIT_SECONDS = 4.0


class Room:
    """
    What the transfers of a bulk take up, from before it is decoded until it has been answered.

    Attributes:
        began: When it was asked for, on the clock of `time.monotonic`, in seconds.
    """

    __slots__ = ("_admission", "_ledger_id", "_transfers", "began")

    def __init__(self, admission: "BulkAdmission", ledger_id: int, transfers: int, began: float) -> None:
        self._admission = admission
        self._ledger_id = ledger_id
        self._transfers = transfers
        self.began = began

    def leave(self) -> None:
        """Give it to bulks that wait; done once, however often it is asked for."""
        transfers, self._transfers = self._transfers, 0
        if transfers:
            self._admission.leave(self._ledger_id, transfers)


class _Waiting(NamedTuple):
    transfers: int
    admitted: asyncio.Future[bool]


class _Ledger:
    """The bulks of a ledger: their transfers under way, and those that wait, in the order in which they came."""

    __slots__ = ("transfers", "waiting")

    def __init__(self) -> None:
        self.transfers = 0
        self.waiting: deque[_Waiting] = deque()

    def admit(self) -> None:
        """Give the room that there is to bulks that wait, and to none before the first of them."""
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
    The bulks under way in this worker, and those that wait for others of their ledger to end.

    Attributes:
        waiting: How many wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._ledgers: dict[int, _Ledger] = {}

    async def enter(self, ledger_id: int, transfers: int) -> Room:
        """
        Return room for the transfers of a bulk, once there is some; it waits for nothing but a future.

        Raises:
            QueueFullError: There was none in time, or too many wait for it.
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
        """Count so many transfers less."""
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
                # What has come behind it may be small enough.
                ledger.admit()
        if not admitted:
            raise QueueFullError


def _refuse(admitted: asyncio.Future[bool]) -> None:
    if not admitted.done():
        admitted.set_result(False)
