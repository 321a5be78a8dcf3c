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
from server.http.limits import KEEPALIVE_SECONDS
from server.http.problems import Problem
from server.http.refusal import full
from server.http.reply import Reply
from server.http.routes import find

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

    __slots__ = ("_coroutine", "_serving", "_task", "answering", "head", "server")

    def __init__(self, server: "HttpServer", loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self.server = server
        # The hot request under way; its answer is the next thing written here.
        self.answering: Call | None = None
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
            super().data_received(data)
            self._bound_what_waits()
            return
        # Hidden, so that aiohttp is not woken before it is known that it has to be.
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if self._messages:
            self._head_part_bytes = 0
            self._serve()
            self._bound_what_waits()
        elif data and self.answering is None and not self._serving:
            self._expect_rest_of_head(len(data))

    def resume_writing(self) -> None:
        """Serve what came meanwhile."""
        super().resume_writing()
        self._serve()

    def close(self) -> None:
        """End the connection when what is under way has been answered."""
        if self.answering is None:
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
                self._messages.popleft()
                assert self._parser is not None, "the connection is open"
                self._parser.message_consumed()
                if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                    self._resume_reading_if_drained()
                # aiohttp's timer of idle connections looks at this.
                self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS
                if isinstance(taken, bytes):
                    self._write(taken)
                else:
                    self._begin(taken)
        finally:
            self._serving = False

    @property
    def _free(self) -> bool:
        """Whether the next request may be taken: those before it have been answered, and their answers are taken."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self.answering is not None:
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
        call = self.answering
        assert call is not None, "a request is under way"
        self.answering = None
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
        if self.answering is None:
            super()._process_keepalive()
        else:
            self._expect_by(self._loop.time() + KEEPALIVE_SECONDS)
