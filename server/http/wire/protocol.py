"""aiohttp's connection protocol, with access to its internals and bounds on the memory and time a client can hold."""

import asyncio
from typing import Any

from aiohttp.web_protocol import RequestHandler

from server.http.call import new_request_id
from server.http.limits import (
    HEAD_DEADLINE_SECONDS,
    HEAD_PART_MAX_BYTES,
    KEEPALIVE_SECONDS,
    READ_AHEAD_MAX_BYTES,
    SEND_DEADLINE_SECONDS,
)
from server.http.problems import Problem
from server.http.reply import PROBLEM, Reply

# Bytes of an empty line: some clients send one after a body, and it begins no request.
_EMPTY_LINE_BYTES = 2


class Protocol(RequestHandler):
    """
    A connection whose client must send heads in time, read its answers in time, and not send far ahead.

    Parsed requests wait in a queue. The first may be served by aiohttp's task of the connection, which sleeps until it
    is woken, or by a subclass, which takes it from the queue. While one of the two is at work, the other takes nothing.
    """

    __slots__ = ("_head_part_bytes", "_reader_deadline")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Bytes received of a head that is not complete yet.
        self._head_part_bytes = 0
        self._reader_deadline: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection; a request under way ends by itself."""
        super().connection_lost(exc)
        self._end_reader_deadline()

    def force_close(self) -> None:
        """End the connection now, except that the client may still read what has been written."""
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size():
            # A client that never reads it would keep the connection for ever.
            self._end_reader_deadline()
            self._reader_deadline = self._loop.call_later(SEND_DEADLINE_SECONDS, transport.abort)

    def pause_writing(self) -> None:
        """Give the client a deadline to read its answers; until it does, nothing more is written."""
        super().pause_writing()
        if self.transport is not None:
            self._reader_deadline = self._loop.call_later(SEND_DEADLINE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Lift the deadline, unless the connection is to end: the client has read its answers."""
        super().resume_writing()
        if self.transport is not None:
            self._end_reader_deadline()

    @property
    def busy(self) -> bool:
        """Whether a request is under way outside aiohttp's task."""
        return False

    @property
    def stuck(self) -> bool:
        """Whether reading has stopped because of an unread body in very many pieces, with no request behind it."""
        return self._reading_paused and not self._messages

    @property
    def aiohttp_waits(self) -> bool:
        """Whether aiohttp's task sleeps: it serves no request and has not been woken."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def may_answer(self) -> bool:
        """Whether an answer may be written: the client keeps up with reading and the connection is not closing."""
        return not (self._paused or self._close or self._force_close)

    def parse(self, data: bytes) -> None:
        """Parse received bytes without waking aiohttp."""
        waiter, self._waiter = self._waiter, None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if self._messages:
            self._head_part_bytes = 0

    def take_message(self) -> None:
        """Remove the first request from the queue, so that aiohttp does not see it."""
        self._messages.popleft()
        assert self._parser is not None, "the connection is open"
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        self.note_activity()

    def note_activity(self) -> None:
        """Restart the count of how long the connection has been idle."""
        # aiohttp's timer for idle connections reads this.
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS

    def wake_aiohttp(self) -> None:
        """Let aiohttp serve the queue."""
        assert self._waiter is not None, "aiohttp waits"
        self._waiter.set_result(None)

    def begin_request(self) -> None:
        """Note that a request is served outside aiohttp's task, so that a shutdown waits for it."""
        self._request_in_progress = True

    def end_request(self) -> None:
        """Note that the request served outside aiohttp's task has ended."""
        self._request_in_progress = False
        waiter, self._handler_waiter = self._handler_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def expect_first_head(self) -> None:
        """Close a new connection if no request comes in time; it gets less time than one that was served before."""
        self.expect_by(self._loop.time() + HEAD_DEADLINE_SECONDS)

    def expect_rest_of_head(self, size: int) -> None:
        """Note *size* more bytes of an incomplete head: it must be complete in time, and may not grow too long."""
        self._head_part_bytes += size
        if self._head_part_bytes > HEAD_PART_MAX_BYTES:
            self.force_close()
        else:
            self.expect_by(self._loop.time() + HEAD_DEADLINE_SECONDS, sooner=True)

    def expect_by(self, instant: float, *, sooner: bool = False) -> None:
        """Close the connection at *instant*, on the loop's clock, if no request has come by then."""
        if sooner and self._next_keepalive_close_time <= instant:
            return
        self._next_keepalive_close_time = instant
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._keepalive_handle = self._loop.call_at(instant, self._process_keepalive)

    def bound_waiting_bytes(self, more: int = 0) -> None:
        """Stop reading when the waiting requests, and *more* bytes behind them, take too much memory."""
        if (self._messages or more) and not self._buffer_paused and self._waiting_bytes() + more > READ_AHEAD_MAX_BYTES:
            self._pause_reading_for_buffer()

    def read_on(self) -> None:
        """Resume reading if the bound on waiting bytes has stopped it."""
        if self._buffer_paused:
            self._resume_reading_for_buffer()

    def _process_keepalive(self) -> None:
        """Close a connection that has been idle for too long; an incomplete head is answered with a 408 first."""
        if self.busy:
            self.expect_by(self._loop.time() + KEEPALIVE_SECONDS)
            return
        transport = self.transport
        due = self._keepalive and self._loop.time() >= self._next_keepalive_close_time
        if self.aiohttp_waits and due and transport is not None and self._head_part_bytes > _EMPTY_LINE_BYTES:
            transport.write(_late_head())
        super()._process_keepalive()

    def _resume_reading_if_drained(self) -> None:
        """Resume reading unless the waiting requests take too much memory; called when few requests are left."""
        if self._waiting_bytes() <= READ_AHEAD_MAX_BYTES:
            super()._resume_reading_if_drained()

    def _waiting_bytes(self) -> int:
        return sum(payload.total_bytes for _, payload in self._messages)

    def _end_reader_deadline(self) -> None:
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None


def _late_head() -> bytes:
    """Return the bytes of the answer to a request whose head was not complete in time."""
    request_id = new_request_id()
    # The method may be missing. The answer to a write is also right for a read.
    body = Problem("request_timeout", "The whole head of the request did not arrive in time.").body(
        request_id, write=True
    )
    reply = Reply(408, body, content_type=PROBLEM)
    reply.keep_alive = False
    return reply.encoded(request_id)
