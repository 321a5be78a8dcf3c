"""Streams server-sent events to viewers: the snapshots of the last ten minutes, then one each second."""

import asyncio
import contextlib
from typing import Final

from aiohttp import web

from server.process.console.board import Board, together
from server.process.console.guard import refusal

# Most viewers at once: each holds a connection and is first sent about a megabyte.
VIEWERS_MAX: Final = 16
# Past snapshots in one event.
PAST_AT_ONCE: Final = 60
# Seconds a viewer has to take an event.
TAKE_SECONDS: Final = 10.0
# Seconds after which a stream ends; the page then asks for another one. A viewer that hangs must not keep its place for
# long, and its buffers could take half an hour of events before a write fails.
LIFE_SECONDS: Final = 300.0


class Live:
    """
    Sends snapshots to viewers.

    Args:
        board: Makes the snapshots.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._viewers = 0

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send past snapshots, then new ones, until the viewer leaves or LIFE_SECONDS have passed."""
        if self._viewers >= VIEWERS_MAX:
            return refusal(503, f"There are {VIEWERS_MAX} viewers already.")
        self._viewers += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        try:
            await response.prepare(request)
            await self._send(response)
        except (TimeoutError, ConnectionError):
            # The viewer has left, or does not read.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._viewers -= 1
        return response

    async def _send(self, response: web.StreamResponse) -> None:
        past = list(self._board.kept)
        for start in range(0, len(past), PAST_AT_ONCE):
            await _write(response, b"past", together(past[start : start + PAST_AT_ONCE]))
        ends = asyncio.get_running_loop().time() + LIFE_SECONDS
        while (snapshot := await self._next(ends)) is not None:
            await _write(response, b"now", snapshot)
        async with asyncio.timeout(TAKE_SECONDS):
            await response.write_eof()

    async def _next(self, ends: float) -> bytes | None:
        """Return the next snapshot, or None if there is none before *ends*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends):
                return await self._board.next()
        return None


async def _write(response: web.StreamResponse, name: bytes, data: bytes) -> None:
    async with asyncio.timeout(TAKE_SECONDS):
        await response.write(b"event: %b\ndata: %b\n\n" % (name, data))
