"""A deadline for the answers of somebody else, which our own loop's delays do not use up."""

import asyncio
from types import TracebackType

# Seconds behind the deadline in which what has arrived by then is read. Timers that are due run before sockets are
# read: after a loop that was held up, by a collection of garbage or a large batch, the answer lies there unread.
ARRIVED_SECONDS = 0.01


class Deadline:
    """
    As `asyncio.timeout`, and past the deadline what has arrived is still read.

    Args:
        loop: The running one; its caller knows it, and asking for it is a system call on CPython 3.11.

        seconds: From the beginning of the block on.
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
            TimeoutError: The deadline has cut the block short.
        """
        assert self._handle is not None, "it has begun"
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _due(self) -> None:
        # A deadline in the past takes effect behind all that is ready to run, such as a task whose answer was read.
        self._handle = self._loop.call_later(ARRIVED_SECONDS, self._timeout.reschedule, 0.0)
