"""The protocol of a connection: aiohttp's, with a shorter way for the hot routes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from aiohttp import StreamReader, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo

from server.gate.gate import Entry
from server.http.call import Call
from server.http.connection import Connection
from server.http.head import Head
from server.http.limits import KEEPALIVE_SECONDS, READ_AHEAD_MAX_BYTES
from server.http.problems import Problem
from server.http.refusal import full
from server.http.reply import Reply
from server.http.routes import find
from server.http.unread import Unread, unread

if TYPE_CHECKING:
    from server.http.server import HttpServer


class Protocol(Connection):
    """
    Serves the requests of a connection.

    aiohttp's parser reads all requests, and its `start()` serves those that are not hot, have not arrived whole, or end
    their connection. A hot request that is there whole is served from here, without a task unless it waits more than
    once behind the gate: its coroutine is run by hand. Order holds: while one side is at work, the other takes nothing.

    Args:
        server: What answers.
    """

    __slots__ = ("_at_start", "_coroutine", "_serving", "_task", "_unread", "answering", "head", "server")

    def __init__(self, server: "HttpServer", loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self.server = server
        # The hot request under way; its answer is the next thing written here.
        self.answering: Call | None = None
        # The same, of one that waits for a place unread.
        self._unread: Unread | None = None
        # Whether what comes next is known to begin a request: the parser does not tell that it holds a part of one.
        self._at_start = True
        # Of the request before, or of this one, with nothing wrong in it.
        self.head: Head | None = None
        self._coroutine: Coroutine[Any, Any, Reply] | None = None
        self._task: asyncio.Task[Reply] | None = None
        self._serving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or refuse it when there are as many as there may be."""
        super().connection_made(transport)
        if self.server.connections_open > self.server.connections_max:
            self._write(full())
            self.force_close()
        else:
            self._expect_first_head()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and serve it if nothing is under way."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            # aiohttp is at work, and takes what comes in its turn.
            self._at_start = False
            super().data_received(data)
            self._bound_what_waits()
            return
        if self._unread is not None:
            self._unread.rest += data
            if len(self._unread.rest) > READ_AHEAD_MAX_BYTES and not self._buffer_paused:
                self._pause_reading_for_buffer()
        elif not (self.server.admission.crowded and self._waits_unread(data)):
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Parse what came while aiohttp waits, and serve it if nothing is under way."""
        waiter = self._waiter
        # Hidden, so that aiohttp is not woken before it is known that it has to be.
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        self._at_start = self._at_start and self._is_one_request(data)
        if self._messages:
            self._head_part_bytes = 0
            self._serve()
            self._bound_what_waits()
        elif data and not self._busy and not self._serving:
            self._expect_rest_of_head(len(data))

    def _is_one_request(self, data: bytes) -> bool:
        """Return whether *data*, just parsed from a start, was one request and nothing else."""
        if len(self._messages) != 1:
            return False
        payload = self._messages[0][1]
        return payload.is_eof() and data.find(b"\r\n\r\n") + 4 + payload.total_bytes == len(data)

    def resume_writing(self) -> None:
        """Serve what came meanwhile."""
        super().resume_writing()
        self._serve()

    def close(self) -> None:
        """End the connection when what is under way has been answered."""
        if not self._busy:
            super().close()
        else:
            self._close = True

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that failed; what was received is neither repeated nor logged: aiohttp's pages do both."""
        return cast(web.StreamResponse, self.server.failed(request, exc))

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Return what answers bytes that are not HTTP."""
        return cast(Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], self.server.malformed)

    def _serve(self) -> None:
        """Serve what waits until something is under way, or aiohttp has to take over."""
        if self._serving:
            return
        self._serving = True
        try:
            while self._messages and self._free:
                message, payload = self._messages[0]
                taken = self._take(message, payload)
                if taken is None:
                    assert self._waiter is not None, "aiohttp waits"
                    self._waiter.set_result(None)
                    return
                self._pop()
                # aiohttp's timer of idle connections looks at this.
                self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS
                if isinstance(taken, bytes):
                    self._write(taken)
                else:
                    self._begin(taken)
        finally:
            self._serving = False

    def _pop(self) -> None:
        """Take the next request away from aiohttp."""
        self._messages.popleft()
        assert self._parser is not None, "the connection is open"
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    @property
    def _busy(self) -> bool:
        """Whether a request is under way here, or waits for a place unread."""
        return self.answering is not None or self._unread is not None

    @property
    def _free(self) -> bool:
        """Whether the next request may be taken: those before it have been answered, and their answers are taken."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self._busy:
            return False
        return not (self._paused or self._close or self._force_close)

    def _take(self, message: "RawRequestMessage | _ErrInfo", payload: StreamReader) -> "Call | bytes | None":
        """Return a request that can be served from here, or all that is sent to one that is refused at once."""
        if self.server.draining or not payload.is_eof() or not isinstance(message, RawRequestMessage):
            return None
        if self._reading_paused:
            # Its body is in so many pieces that somebody has to read it, or nothing is read behind it.
            return None
        if message.method == "HEAD" or message.path[:1] != "/":
            return None
        path, _, query = message.path.partition("?")
        found = find(path)
        route = None if found is None else found[0].get(message.method)
        if route is not None and route.free:
            return None
        head = Head.of(message, self.head)
        if not head.lasting:
            return None
        try:
            head.check()
        except Problem:
            return None
        self.head = head
        key = self.server.known(head)
        if key is not None and (route is None or not route.hot):
            return None
        call = Call((message.method, path, query), head, payload, self, self.server.admission)
        call.arrived = time.monotonic()
        if found is not None and route is not None:
            call.ids = found[1]
            call.route = route.path
        if key is None:
            return self.server.refused(call, route)
        call.key = key
        return call

    def _waits_unread(self, data: bytes) -> bool:
        """Have a hot request of a known key wait for a place as it is, if that can be done and there is none."""
        head = self.head
        # Where anything else is under way or has begun to arrive, what comes is behind it or a part of it.
        if head is None or not self._at_start or self._messages or not self._free or self.server.draining:
            return False
        admission = self.server.admission
        if not admission.full(write=data[:1] == b"P") or self.server.known(head) is None:
            return False
        request = unread(data, head, time.monotonic())
        if request is None:
            return False
        self._unread = request
        self._request_in_progress = True
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS
        admission.wait(self._read_admitted, self._refused_unread, write=request.write)
        return True

    def _read_admitted(self) -> None:
        """Read a request that has a place now."""
        request = self._unread
        assert request is not None, "it waits"
        admission = self.server.admission
        self._end()
        if self.transport is None:
            # The caller has gone, and nothing has been done yet.
            admission.leave(write=request.write)
            return
        if self._close:
            # Nothing is read any more.
            admission.leave(write=request.write)
            self._refuse(request)
            return
        # It has its place: it is not served as one that comes now.
        self._serving = True
        try:
            self._read(request.data)
            taken = self._take(*self._messages[0]) if self._messages else None
            if isinstance(taken, Call):
                self._pop()
                taken.arrived = request.arrived
                self.answering = taken
                self._request_in_progress = True
                self._start(taken)
            else:
                admission.leave(write=request.write)
        finally:
            self._serving = False
        self._go_on_behind(request)

    def _refused_unread(self) -> None:
        request = self._unread
        assert request is not None, "it waits"
        self._end()
        if self.transport is not None:
            self._refuse(request)

    def _refuse(self, request: Unread) -> None:
        self._write(self.server.refusal_unread(request))
        if self._close:
            self.force_close()
        else:
            self._go_on_behind(request)

    def _go_on_behind(self, request: Unread) -> None:
        """Read what has come behind a request that waited unread, and serve it in its turn."""
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        if request.rest:
            self.data_received(request.rest)
        else:
            self._serve()

    def _begin(self, call: Call) -> None:
        self.answering = call
        self._request_in_progress = True
        admission = self.server.admission
        if admission.enter(write=call.write):
            self._start(call)
        else:
            admission.wait(self._admitted, self._refused, write=call.write)

    def _admitted(self) -> None:
        assert self.answering is not None, "the request waits"
        if self.transport is None:
            # The caller has gone, and nothing has been done yet.
            self.answering.placed = True
            self._leave()
        else:
            self._start(self.answering)

    def _start(self, call: Call) -> None:
        """Run a request that has a place."""
        call.placed = True
        try:
            said = self.server.begin(call)
        except Exception as error:
            self._finish(self.server.failure(call, error))
            return
        if isinstance(said, bytes):
            self._answer(said)
        elif said is not None:
            said.add_done_callback(self._go_through)
        else:
            self._coroutine = self.server.serve(call, find(call.path))
            self._step()

    def _go_through(self, said: "asyncio.Future[Entry]") -> None:
        """End a hot request that the cache answers, or go on with it."""
        call = self.answering
        assert call is not None, "the request is under way"
        try:
            spoken = not said.cancelled() and said.exception() is None
            answer = self.server.end(call, said.result()) if spoken else None
        except Exception as error:
            self._finish(self._failure(error))
            return
        if answer is None:
            call.gated = time.monotonic()
            self._coroutine = self.server.go_on(call, said)
            self._step()
        else:
            self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        """Send all that is sent to a request that has a place."""
        self._leave()
        self._write(answer)
        self._go_on(keep_alive=True)

    def _refused(self) -> None:
        call = self.answering
        assert call is not None, "the request waits"
        self._end()
        self._write(self.server.refusal(call))
        self._go_on(keep_alive=True)

    def _step(self, waited_for: "asyncio.Future[Any] | None" = None) -> None:
        """Run the request to where it waits next, or to its end."""
        assert self._coroutine is not None
        try:
            future = self._coroutine.send(None)
        except StopIteration as stop:
            self._finish(stop.value)
        except Exception as error:
            self._finish(self._failure(error))
        except BaseException:
            self._fail()
            raise
        else:
            if future is None:  # It only lets others go first.
                self._run_on()
                return
            # As a task does with what its coroutine waits for.
            future._asyncio_future_blocking = False
            future.add_done_callback(self._step if waited_for is None else self._run_on)

    def _run_on(self, _waited_for: "asyncio.Future[Any] | None" = None) -> None:
        """Run the rest of the request in a task: it has waited for more than the gate."""
        assert self._coroutine is not None
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Reply]") -> None:
        self._task = None
        if task.cancelled():
            self._fail()
            return
        error = task.exception()
        self._finish(task.result() if error is None else self._failure(error))

    def _failure(self, error: BaseException) -> Reply:
        assert self.answering is not None, "a request is under way"
        return self.server.failure(self.answering, error)

    def _finish(self, reply: Reply) -> None:
        call = self.answering
        assert call is not None, "a request is under way"
        self._leave()
        self._write(reply.encoded(call.own_fields()))
        self.server.observer.ended(call, reply.status)
        self._go_on(keep_alive=reply.keep_alive)

    def _fail(self) -> None:
        """End a request whose answer is lost, and its connection with it: nothing else may take the answer's place."""
        self._leave()
        self.force_close()

    def _leave(self) -> None:
        """End the request under way, and give its place away."""
        assert self.answering is not None, "a request is under way"
        self.answering.give_place_away()
        self._end()

    def _end(self) -> None:
        self.answering = None
        self._unread = None
        self._coroutine = None
        self._request_in_progress = False
        waiter, self._handler_waiter = self._handler_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _go_on(self, *, keep_alive: bool) -> None:
        """Serve what came meanwhile."""
        if self._close or not keep_alive:
            self.force_close()
        else:
            self._serve()

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle."""
        if not self._busy:
            super()._process_keepalive()
        else:
            self._expect_by(self._loop.time() + KEEPALIVE_SECONDS)
