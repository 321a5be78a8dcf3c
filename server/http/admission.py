"""How much a worker has under way at once: what comes on top waits shortly for its turn, and is then refused."""

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
# Writes among them: two batches of postings. More would not be done sooner, but hold more memory than the caches of a
# processor do.
RUNNING_WRITES_MAX = 168
# Reads among them: what they cannot take is kept for writes, and what writes cannot take for them.
RUNNING_READS_MAX = 448
# Requests without a good key that a worker has under way at once, on top: a sixteenth of the others, so that is about
# what a flood from any number of addresses takes of the worker's time.
RUNNING_ANONYMOUS_MAX = 32
# Reads, and writes, that may wait and are still served in the order in which they came: those of a burst, or of as many
# callers as a worker answers in good time. When more wait than that, the last that came is served first.
IN_ORDER_MAX = (4_096, 1_024)
# Seconds a request waits for a place before it is refused: long enough for a burst to pass on a slow machine too, short
# enough that who is admitted is answered within a second, and who is not has time to try elsewhere.
WAIT_SECONDS = 0.5
# Seconds between looks at what has waited too long.
LOOK_SECONDS = 0.01
# Share of a worker's time that refusing takes while a flood lasts. It bounds what connections that send again at once,
# whatever Retry-After says, cost those who are served. Those who wait longer for that may still be admitted.
REFUSING_SHARE = 0.05
# Requests that wait for each such share, and shares at most. The more wait, the faster they are refused: otherwise the
# last of ten thousand would wait for many seconds. It costs those who are served up to a fifth.
REFUSING_CROWD = 1_000
REFUSING_SHARES_MAX = 4
# Seconds of that time that are saved up before a flood, and spent when it begins: those of ten thousand refusals, at 25
# microseconds each, most of it the kernel's. Callers who then heed Retry-After come back one by one.
REFUSING_SAVED_SECONDS = 0.25
# Share of a worker's time that refusing takes at most, so that others are served meanwhile.
REFUSING_SHARE_MAX = 0.4
# Seconds that it takes at most to send a refusal once a waiting request has been woken: too late to be measured here.
WOKEN_SECONDS = 0.00005


# Tells how long refusing takes.
clock = time.perf_counter


class _Waiting(NamedTuple):
    arrived: float
    admitted: Callable[[], None]
    refused: Callable[[], None]


class Admission:
    """
    The requests under way in this worker, and those that wait for one of them to end.

    As many wait at most as there are connections, one each. Few are admitted in the order in which they came, and none
    that comes later gets in before them. Of many the newest is admitted first: in a flood the ones served are then
    served fast, while the oldest are about to be refused anyway (adaptive LIFO: Maurer, "Fail at Scale", 2015).
    """

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.refused = 0
        self.arriving_bytes = 0
        self._waiting: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._admitting = False
        # Whether somebody waits, or has waited at the last look.
        self.crowded = False
        self._looked = 0.0
        # Seconds of refusing that are saved up, and those of the present look that are spent after it.
        self._saved = REFUSING_SAVED_SECONDS
        self._saved_at = 0.0
        self._left_to_do = 0.0

    @property
    def waiting(self) -> tuple[int, int]:
        """How many reads and how many writes wait for a place."""
        return len(self._waiting[0]), len(self._waiting[1])

    def enter(self, *, write: bool) -> bool:
        """Count one more request, or return False when there is no place, or others have waited for it."""
        if self.full(write=write):
            return False
        self._count(1, write=write)
        return True

    def full(self, *, write: bool) -> bool:
        """Return whether one more would have to wait."""
        return 0 < len(self._waiting[write]) <= IN_ORDER_MAX[write] or not self._has_room(write=write)

    def leave(self, *, write: bool) -> None:
        """Count one request less; its place goes to one that waits."""
        self._count(-1, write=write)
        if (self._waiting[0] or self._waiting[1]) and not self._admitting:
            # Not at once: what is admitted may end at once too, and so on.
            self._admitting = True
            self._running_loop().call_soon(self._admit)

    @asynccontextmanager
    async def outside(self, *, write: bool) -> AsyncIterator[None]:
        """
        Give a request's place away while it waits for what is none of the worker's work, and take one again then.

        Raises:
            QueueFullError: There was no place again in time.
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
                    # It ends at once, and gives back then what it has not taken.
                    self._count(1, write=write)
        if not admitted:
            raise QueueFullError

    @asynccontextmanager
    async def arriving(self, size: int, *, write: bool) -> AsyncIterator[None]:
        """
        Be outside while the request's body, of up to *size* bytes, arrives.

        Raises:
            QueueFullError: Too many bytes are arriving already, or as `outside`.
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
            admitted: Called when there is one; the request has entered.

            refused: Called instead when there was none for too long.
        """
        loop = self._running_loop()
        self._waiting[write].append(_Waiting(loop.time(), admitted, refused))
        if not self.crowded:
            self.crowded = True
            self._looked = loop.time()
            loop.call_later(LOOK_SECONDS, self._look)

    async def entered(self, *, write: bool) -> bool:
        """Enter, waiting for a place if need be, and return whether there was one in time."""
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
                # It had a place already.
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
        # Writes first: a payment that fails is worse than a balance that does.
        for write in (True, False):
            waiting = self._waiting[write]
            while waiting and self._has_room(write=write):
                self._count(1, write=write)
                chosen = waiting.popleft() if len(waiting) <= IN_ORDER_MAX[write] else waiting.pop()
                chosen.admitted()

    def _look(self) -> None:
        """Refuse those that have waited too long, the oldest first."""
        loop = self._running_loop()
        now = loop.time()
        allowed = min(self._save(now), (now - self._looked) * REFUSING_SHARE_MAX)
        self._looked = now
        began, self._left_to_do, taken = clock(), 0.0, 0.0
        while True:
            # A flood of the ones must not keep the others waiting.
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
        """Add what has come since the last look to the time for refusing, and return how much there is."""
        shares = min(REFUSING_SHARES_MAX, max(1.0, sum(self.waiting) / REFUSING_CROWD))
        self._saved = min(REFUSING_SAVED_SECONDS, self._saved + (now - self._saved_at) * REFUSING_SHARE * shares)
        self._saved_at = now
        return self._saved


class AnonymousAdmission(Admission):
    """The requests without a good key under way in this worker: their places are few, and their own."""

    def _has_room(self, *, write: bool) -> bool:  # noqa: ARG002 -- reads and writes are alike here
        return self.reads + self.writes < RUNNING_ANONYMOUS_MAX
