"""A timeout for another server's answers that is not used up by delays of our own event loop."""

import asyncio
from types import TracebackType

# Seconds after the deadline in which answers that have arrived are still read. Due timers run before sockets are read:
# after a delay of the loop, by garbage collection or a large batch, an answer may have arrived unread.
ARRIVED_SECONDS = 0.01


class Deadline:
    """
    `asyncio.timeout`, except that an answer which has arrived by the deadline is still read after it.

    Args:
        loop: The running loop. Callers keep it, since getting it is a system call on CPython 3.11.

        seconds: Seconds from the beginning of the block.
    """

    __slots__ = ("_handle", "_loop", "_seconds", "_timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._timeout = asyncio.timeout_at(None)
        self._handle: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        """Begin."""
        await self._timeout.__aenter__()
        self._handle = self._loop.call_later(self._seconds, self._due)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """
        End.

        Raises:
            TimeoutError: The deadline has passed.
        """
        assert self._handle is not None, "it has begun"
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _due(self) -> None:
        # A deadline in the past takes effect after everything that is ready to run, such as a task whose answer was
        # read.
        self._handle = self._loop.call_later(ARRIVED_SECONDS, self._timeout.reschedule, 0.0)
