"""aiohttp's protocol of a connection: what is needed of its inside, and bounds on what a client can make it hold."""

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

# Bytes of an empty line: some clients send one behind a body, and it begins no request.
_EMPTY_LINE_BYTES = 2


class Protocol(RequestHandler):
    """
    A connection whose client has to send heads in time, take its answers in time, and not send far ahead.

    Parsed requests wait in a queue. Either side may serve the first one: aiohttp's task of the connection, which sleeps
    until it is woken, or a subclass, which takes it from the queue. While one side is at work the other takes nothing.
    """

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
    def busy(self) -> bool:
        """Whether a request is under way outside aiohttp's task."""
        return False

    @property
    def stuck(self) -> bool:
        """Whether nothing is read any more because of a body in very many pieces, and nothing else waits behind it."""
        return self._reading_paused and not self._messages

    @property
    def aiohttp_waits(self) -> bool:
        """Whether aiohttp's task sleeps: it serves nothing, and has not been woken."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def may_answer(self) -> bool:
        """Whether an answer may be written: those before it have been taken, and the connection goes on."""
        return not (self._paused or self._close or self._force_close)

    def parse(self, data: bytes) -> None:
        """Parse what came, without waking aiohttp."""
        waiter, self._waiter = self._waiter, None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if self._messages:
            self._head_part_bytes = 0

    def take_message(self) -> None:
        """Take the first request out of the queue: aiohttp is not to see it."""
        self._messages.popleft()
        assert self._parser is not None, "the connection is open"
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        self.note_activity()

    def note_activity(self) -> None:
        """Begin anew to count how long the connection has been idle."""
        # aiohttp's timer of idle connections looks at this.
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS

    def wake_aiohttp(self) -> None:
        """Let aiohttp serve what is in the queue."""
        assert self._waiter is not None, "aiohttp waits"
        self._waiter.set_result(None)

    def begin_request(self) -> None:
        """Note a request that is served outside aiohttp's task: a shutdown waits for it."""
        self._request_in_progress = True

    def end_request(self) -> None:
        """Note that it has ended."""
        self._request_in_progress = False
        waiter, self._handler_waiter = self._handler_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def expect_first_head(self) -> None:
        """Give a new connection less time than one that has been served."""
        self.expect_by(self._loop.time() + HEAD_DEADLINE_SECONDS)

    def expect_rest_of_head(self, size: int) -> None:
        """Note *size* bytes of a head: the rest has to come in time, and what is too long is not waited for."""
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
        """Stop reading when the requests that wait, and *more* bytes behind them, hold too much memory."""
        if (self._messages or more) and not self._buffer_paused and self._waiting_bytes() + more > READ_AHEAD_MAX_BYTES:
            self._pause_reading_for_buffer()

    def read_on(self) -> None:
        """Read again what the bound on waiting bytes has stopped."""
        if self._buffer_paused:
            self._resume_reading_for_buffer()

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle when it may be no longer; a head that has begun to come is answered."""
        if self.busy:
            self.expect_by(self._loop.time() + KEEPALIVE_SECONDS)
            return
        transport = self.transport
        due = self._keepalive and self._loop.time() >= self._next_keepalive_close_time
        if self.aiohttp_waits and due and transport is not None and self._head_part_bytes > _EMPTY_LINE_BYTES:
            transport.write(_late_head())
        super()._process_keepalive()

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


def _late_head() -> bytes:
    """Return all that is sent on a connection where the head of a request has not come to its end in time."""
    request_id = new_request_id()
    # Its method may be among what is missing: what a write is told holds for a read too.
    body = Problem("request_timeout", "The head did not arrive whole in time.").body(request_id, write=True)
    reply = Reply(408, body, content_type=PROBLEM)
    reply.keep_alive = False
    return reply.encoded(request_id)
