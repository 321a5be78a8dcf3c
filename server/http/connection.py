"""A connection: aiohttp's, with bounds on what a client can make it hold, and for how long."""

import asyncio
from typing import Any

from aiohttp.web_protocol import RequestHandler

from server.http.limits import (
    HEAD_DEADLINE_SECONDS,
    HEAD_PART_MAX_BYTES,
    READ_AHEAD_MAX_BYTES,
    SEND_DEADLINE_SECONDS,
)
from server.http.refusal import late

# Bytes of an empty line: some clients send one behind a body, and it begins no request.
_EMPTY_LINE_BYTES = 2


class Connection(RequestHandler):
    """A connection whose client has to send heads in time, take its answers in time, and not send far ahead."""

    __slots__ = ("_head_part_bytes", "_reader_deadline")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Of a head that has not come to its end yet.
        self._head_part_bytes = 0
        self._reader_deadline: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection; a request under way ends by itself."""
        super().connection_lost(exc)
        self._end_reader_deadline()

    def force_close(self) -> None:
        """End the connection now, but for what has been written and is still being taken."""
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size():
            # Who never takes it would keep the connection for ever.
            self._loop.call_later(SEND_DEADLINE_SECONDS, transport.abort)

    def pause_writing(self) -> None:
        """Give the client some time to take its answers; until then nothing more is written."""
        super().pause_writing()
        if self.transport is not None:
            self._reader_deadline = self._loop.call_later(SEND_DEADLINE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client has taken its answers."""
        super().resume_writing()
        self._end_reader_deadline()

    @property
    def stuck(self) -> bool:
        """Whether nothing is read any more because of a body in very many pieces, and nothing else waits behind it."""
        return self._reading_paused and not self._messages

    def _expect_first_head(self) -> None:
        """Give a new connection less time than one that has been served."""
        self._expect_by(self._loop.time() + HEAD_DEADLINE_SECONDS)

    def _expect_rest_of_head(self, size: int) -> None:
        """Note *size* bytes of a head: the rest has to come in time, and what is too long is not waited for."""
        self._head_part_bytes += size
        if self._head_part_bytes > HEAD_PART_MAX_BYTES:
            self.force_close()
        else:
            self._expect_by(self._loop.time() + HEAD_DEADLINE_SECONDS, sooner=True)

    def _expect_by(self, instant: float, *, sooner: bool = False) -> None:
        """Close the connection at *instant*, on the loop's clock, if no request has come by then."""
        if sooner and self._next_keepalive_close_time <= instant:
            return
        self._next_keepalive_close_time = instant
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._keepalive_handle = self._loop.call_at(instant, self._process_keepalive)

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle when it may be no longer; what has begun to come is answered."""
        transport, waiter = self.transport, self._waiter
        idle = waiter is not None and not waiter.done()
        due = self._keepalive and self._loop.time() >= self._next_keepalive_close_time
        if idle and due and transport is not None and self._head_part_bytes > _EMPTY_LINE_BYTES:
            transport.write(late())
        super()._process_keepalive()

    def _bound_what_waits(self) -> None:
        """Stop reading when the requests that wait for their turn hold too much memory with their bodies."""
        if self._messages and not self._buffer_paused and self._waiting_bytes() > READ_AHEAD_MAX_BYTES:
            self._pause_reading_for_buffer()

    def _resume_reading_if_drained(self) -> None:
        """Read again, unless what waits still holds too much; called whenever one of few is taken."""
        if self._waiting_bytes() <= READ_AHEAD_MAX_BYTES:
            super()._resume_reading_if_drained()

    def _waiting_bytes(self) -> int:
        return sum(payload.total_bytes for _, payload in self._messages)

    def _end_reader_deadline(self) -> None:
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None
