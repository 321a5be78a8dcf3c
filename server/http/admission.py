"""Limits how many requests a worker has under way at once: further ones wait shortly and are then refused."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from server.http.limits import ARRIVING_MAX_BYTES
from server.store.coalescer import QueueFullError

# Requests a worker has under way at once, reads and writes together: some tens of milliseconds of work.
RUNNING_MAX = 512
# Writes among them: two batches of postings. More would not be done sooner, but would take more memory than a
# processor's caches hold.
RUNNING_WRITES_MAX = 168
# Reads among them. The remaining places are kept for writes, and those that writes cannot take for reads.
RUNNING_READS_MAX = 448
# Requests without a good key that a worker has under way at once, besides the others: a sixteenth of their number. So a
# flood from any number of addresses takes about a sixteenth of the worker's time.
RUNNING_ANONYMOUS_MAX = 32
# The numbers of reads and writes that may wait and are still served in order of arrival: those of a burst, or of as
# many callers as a worker answers in good time. When more wait, the newest is served first.
IN_ORDER_MAX = (4_096, 1_024)
# Seconds a request waits for a place before it is refused: long enough for a burst to pass even on a slow machine, and
# short enough that an admitted request is answered within a second and a refused caller has time to try elsewhere.
WAIT_SECONDS = 0.5
# Seconds between looks for requests that have waited too long.
LOOK_SECONDS = 0.01
# Share of a worker's time that refusing takes while a flood lasts. Clients that ignore Retry-After and send again at
# once cost the served requests no more than this. Requests that wait longer because of it may still be admitted.
REFUSING_SHARE = 0.05
# One such share is spent for each REFUSING_CROWD waiting requests, up to REFUSING_SHARES_MAX shares. The more wait, the
# faster they are refused: otherwise the last of ten thousand would wait for many seconds. Refusing then takes up to a
# fifth of the worker's time.
REFUSING_CROWD = 1_000
REFUSING_SHARES_MAX = 4
# Seconds of refusing that are saved up before a flood and spent when it begins: enough for ten thousand refusals at 25
# microseconds each, most of which the kernel takes. Callers that obey Retry-After then come back one by one.
REFUSING_SAVED_SECONDS = 0.25
# Share of a worker's time that refusing may ever take, so that other requests are still served.
REFUSING_SHARE_MAX = 0.4
# Seconds that a woken request takes at most to send its refusal. This happens too late to be measured here.
WOKEN_SECONDS = 0.00005


# Measures how long refusing takes.
clock = time.perf_counter


class _Waiting(NamedTuple):
    arrived: float
    admitted: Callable[[], None]
    refused: Callable[[], None]


class Admission:
    """
    Counts the requests under way in this worker, and admits waiting ones when others end.

    Each connection has at most one waiting request. A few waiting requests are admitted in order of arrival, and no
    later request gets in before them. Of many, the newest is admitted first: so a flood's admitted requests are served
    fast, and the oldest are about to be refused anyway (adaptive LIFO: Maurer, "Fail at Scale", 2015).
    """

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.refused = 0
        self.arriving_bytes = 0
        self._waiting: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._admitting = False
        # Whether a request waits, or did at the last look.
        self.crowded = False
        self._looked = 0.0
        # Seconds of refusing that are saved up, and those that woken requests spend after the present look.
        self._saved = REFUSING_SAVED_SECONDS
        self._saved_at = 0.0
        self._left_to_do = 0.0

    @property
    def waiting(self) -> tuple[int, int]:
        """How many reads and how many writes wait for a place."""
        return len(self._waiting[0]), len(self._waiting[1])

    def enter(self, *, write: bool) -> bool:
        """Take a place for a request, or return False if none is free or earlier requests wait for one."""
        if self.full(write=write):
            return False
        self._count(1, write=write)
        return True

    def full(self, *, write: bool) -> bool:
        """Return whether one more request would have to wait."""
        return 0 < len(self._waiting[write]) <= IN_ORDER_MAX[write] or not self._has_room(write=write)

    def leave(self, *, write: bool) -> None:
        """Give back a request's place; a waiting request gets it."""
        self._count(-1, write=write)
        if (self._waiting[0] or self._waiting[1]) and not self._admitting:
            # Not at once: an admitted request may end at once too, and this would recurse.
            self._admitting = True
            self._running_loop().call_soon(self._admit)

    @asynccontextmanager
    async def outside(self, *, write: bool) -> AsyncIterator[None]:
        """
        Give a request's place away while it waits for something that takes no work of this worker, then take one again.

        Raises:
            QueueFullError: No place became free again in time.
        """
        self.leave(write=write)
        admitted = False
        try:
            yield
        finally:
            try:
                admitted = await self.entered(write=write)
            finally:
                if not admitted:
                    # The request now fails and gives back a place that it does not have: count one for that.
                    self._count(1, write=write)
        if not admitted:
            raise QueueFullError

    @asynccontextmanager
    async def arriving(self, size: int, *, write: bool) -> AsyncIterator[None]:
        """
        Give the place away, as `outside` does, while a body of up to *size* bytes arrives.

        Raises:
            QueueFullError: Too many bytes are arriving already, or no place became free again in time.
        """
        if self.arriving_bytes + size > ARRIVING_MAX_BYTES:
            raise QueueFullError
        self.arriving_bytes += size
        try:
            async with self.outside(write=write):
                yield
        finally:
            self.arriving_bytes -= size

    def wait(self, admitted: Callable[[], None], refused: Callable[[], None], *, write: bool) -> None:
        """
        Wait for a place.

        Args:
            admitted: Called when the request has got a place.

            refused: Called instead when it has waited too long.
        """
        loop = self._running_loop()
        self._waiting[write].append(_Waiting(loop.time(), admitted, refused))
        if not self.crowded:
            self.crowded = True
            self._looked = loop.time()
            loop.call_later(LOOK_SECONDS, self._look)

    async def entered(self, *, write: bool) -> bool:
        """Take a place, waiting for one if necessary; return whether one became free in time."""
        if self.enter(write=write):
            return True
        waiter: asyncio.Future[bool] = self._running_loop().create_future()

        def admitted() -> None:
            if waiter.cancelled():
                self.leave(write=write)
            else:
                waiter.set_result(True)

        def refused() -> None:
            if not waiter.cancelled():
                waiter.set_result(False)
                self._left_to_do += WOKEN_SECONDS

        self.wait(admitted, refused, write=write)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                # The request had a place already.
                self.leave(write=write)
            raise

    def _has_room(self, *, write: bool) -> bool:
        if self.reads + self.writes >= RUNNING_MAX:
            return False
        return self.writes < RUNNING_WRITES_MAX if write else self.reads < RUNNING_READS_MAX

    def _count(self, number: int, *, write: bool) -> None:
        if write:
            self.writes += number
        else:
            self.reads += number

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _admit(self) -> None:
        self._admitting = False
        # Writes go first: a refused payment is worse than a refused balance.
        for write in (True, False):
            waiting = self._waiting[write]
            while waiting and self._has_room(write=write):
                self._count(1, write=write)
                chosen = waiting.popleft() if len(waiting) <= IN_ORDER_MAX[write] else waiting.pop()
                chosen.admitted()

    def _look(self) -> None:
        """Refuse requests that have waited too long, the oldest first."""
        loop = self._running_loop()
        now = loop.time()
        allowed = min(self._save(now), (now - self._looked) * REFUSING_SHARE_MAX)
        self._looked = now
        began, self._left_to_do, taken = clock(), 0.0, 0.0
        while True:
            # Take the older of both queues, so that a flood of reads does not keep writes waiting, nor the reverse.
            waiting = min(self._waiting, key=lambda some: some[0].arrived if some else math.inf)
            if not waiting or waiting[0].arrived + WAIT_SECONDS > now:
                break
            self.refused += 1
            waiting.popleft().refused()
            taken = clock() - began + self._left_to_do
            if taken >= allowed:
                break
        self._saved -= taken
        self.crowded = bool(self._waiting[0] or self._waiting[1])
        if self.crowded:
            loop.call_later(LOOK_SECONDS, self._look)

    def _save(self, now: float) -> float:
        """Add the share of the time since the last look to the saved seconds of refusing, and return them."""
        shares = min(REFUSING_SHARES_MAX, max(1.0, sum(self.waiting) / REFUSING_CROWD))
        self._saved = min(REFUSING_SAVED_SECONDS, self._saved + (now - self._saved_at) * REFUSING_SHARE * shares)
        self._saved_at = now
        return self._saved


class AnonymousAdmission(Admission):
    """Admits requests without a good key: they have few places, separate from those of other requests."""

    def _has_room(self, *, write: bool) -> bool:  # noqa: ARG002 -- reads and writes are alike here
        return self.reads + self.writes < RUNNING_ANONYMOUS_MAX
