"""A connection: bytes become calls, each runs through the pipeline, and its reply is written."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo

from server.http.call import Call, new_request_id
from server.http.limits import HEADERS_MAX, HEADERS_MAX_BYTES, REQUEST_LINE_MAX_BYTES
from server.http.overload import overloaded
from server.http.path import origin_form
from server.http.pipeline import Pipeline
from server.http.reply import AiohttpReply, Reply, StreamedReply
from server.http.wire.head import Head
from server.http.wire.protocol import Protocol
from server.http.wire.repeated import RepeatedHeads
from server.http.wire.unread import Unread, unread

TOO_LARGE: Final = (
    f"The head of the request is too large. The request line and each header field have up to {REQUEST_LINE_MAX_BYTES} "
    f"bytes, and the header fields are up to {HEADERS_MAX} of up to {HEADERS_MAX_BYTES} bytes together. The connection "
    "is closed."
)


class Connections:
    """
    What all connections of a server share.

    Args:
        count_max: How many there may be; the one on top is refused.

    Attributes:
        count: How many there are.

        draining: Set when no new work is wanted: every reply then closes its connection.
    """

    def __init__(self, count_max: int) -> None:
        self.count_max = count_max
        self.count = 0
        self.draining = False


class Connection(Protocol):
    """
    Serves the requests of a connection, one after the other.

    A request that is there whole, and whose connection goes on behind it, is served from here: its coroutine is run at
    once, by hand, and gets a task only when it says that it needs one. The others are served by aiohttp's task of the
    connection, through the same pipeline: it knows how to wait for bodies and how to end a connection.

    Args:
        pipeline: Answers the requests.

        connections: All of the server.
    """

    __slots__ = (
        "_at_start",
        "_connections",
        "_coroutine",
        "_pipeline",
        "_repeated",
        "_sending",
        "_serving",
        "_task",
        "_unread",
        "call",
        "head",
    )

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        pipeline: Pipeline,
        connections: Connections,
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._pipeline = pipeline
        self._connections = connections
        # The request under way here; its answer is the next thing written.
        self.call: Call | None = None
        # The same, of one that waits for a place unread.
        self._unread: Unread | None = None
        # Whether what comes next is known to begin a request: the parser does not tell that it holds a part of one.
        self._at_start = True
        # Of the request before, or of this one, with nothing wrong in it.
        self.head: Head | None = None
        self._repeated = RepeatedHeads()
        self._coroutine: Coroutine[Any, Any, Reply] | None = None
        self._task: asyncio.Task[Reply] | None = None
        # What sends an answer in pieces.
        self._sending: asyncio.Task[None] | None = None
        self._serving = False

    # --- Bytes that come.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or refuse it when there are as many as there may be."""
        super().connection_made(transport)
        if self._connections.count <= self._connections.count_max:
            self.expect_first_head()
            return
        request_id = new_request_id()
        reply = overloaded(request_id, write=False)
        reply.keep_alive = False
        self._write(reply.encoded(request_id))
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and serve it if nothing is under way."""
        if not self.aiohttp_waits:
            # aiohttp is at work, and takes what comes in its turn. Its task has not begun when a request comes with
            # the connection.
            super().data_received(data)
            if data:
                self._at_start = self._at_start and self._is_one_request(data)
            self.bound_waiting_bytes()
        elif self._unread is not None:
            self._unread.rest += data
            self.bound_waiting_bytes(len(self._unread.rest))
        elif not self._idle:
            self._parse(data)
        elif not (self._pipeline.admission.crowded and self._waits_unread(data)):
            call = self._repeated.call(data, self, self._pipeline.admission)
            if call is not None:
                self.note_activity()
                self._start(call)
            elif self._parse(data) and self.call is not None and self.call.authenticated:
                self._repeated.remember(data, self.call)

    def resume_writing(self) -> None:
        """Serve what came meanwhile."""
        super().resume_writing()
        self._serve()

    def close(self) -> None:
        """End the connection when what is under way has been answered."""
        if not self.busy:
            super().close()
        else:
            self._close = True

    def _parse(self, data: bytes) -> bool:
        """Parse what came, serve it if nothing is under way, and return whether it was one request from a start."""
        self.parse(data)
        one = self._at_start and self._is_one_request(data)
        if data:
            # aiohttp feeds nothing when a body has been read, in case the parser holds more: behind one request it
            # does not.
            self._at_start = one
        if self._messages:
            self._serve()
            self.bound_waiting_bytes()
        elif data and not self.busy and not self._serving:
            self.expect_rest_of_head(len(data))
        return one

    def _is_one_request(self, data: bytes) -> bool:
        """Return whether *data*, just parsed from a start, was one request and nothing else."""
        if len(self._messages) != 1:
            return False
        message, payload = self._messages[0]
        if not isinstance(message, RawRequestMessage) or message.upgrade:
            # What comes behind it is no request.
            return False
        return payload.is_eof() and data.find(b"\r\n\r\n") + 4 + payload.total_bytes == len(data)

    # --- Requests served from here.

    @property
    def _idle(self) -> bool:
        """Whether what comes next begins a request that may be served, where aiohttp waits and nothing waits unread."""
        return (
            self._at_start
            and self.call is None
            and not self._messages
            and not self._connections.draining
            and self.may_answer
        )

    @property
    def busy(self) -> bool:
        """Whether a request is under way here, or waits for a place unread."""
        return self.call is not None or self._unread is not None

    @property
    def _free(self) -> bool:
        """Whether the next request may be taken."""
        return not self.busy and self.aiohttp_waits and self.may_answer

    def _serve(self) -> None:
        """Serve what waits until something is under way, or aiohttp has to take over."""
        if self._serving:
            return
        self._serving = True
        try:
            while self._messages and self._free:
                call = self._read(*self._messages[0])
                if call is None:
                    self.wake_aiohttp()
                    return
                self.take_message()
                self._start(call)
        finally:
            self._serving = False

    def _read(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> Call | None:
        """Return the call that a message is; None where aiohttp has to serve it."""
        if self._connections.draining or not payload.is_eof() or not isinstance(message, RawRequestMessage):
            return None
        if self._reading_paused:
            # Its body is in so many pieces that somebody has to read it, or nothing is read behind it.
            return None
        head = Head.of(message, self.head)
        if not head.keeps_alive:
            return None
        return self._new_call(message.method, message.path, head, payload)

    def _new_call(self, method: str, target: str, head: Head, content: StreamReader) -> Call:
        if target[:1] != "/":
            target = origin_form(target)
        path, _, query = target.partition("?")
        return Call(
            (method, path, query),
            head,
            content,
            self,
            admission=self._pipeline.admission,
            arrived=time.monotonic(),
        )

    def _start(self, call: Call) -> None:
        """Run a request as far as it gets now."""
        self.call = call
        self.begin_request()
        self._coroutine = self._pipeline.respond(call)
        self._step()

    def _step(self, _waited_for: "asyncio.Future[Any] | None" = None) -> None:
        """Run the request to where it waits next, or to its end: what a task does, without its cost."""
        assert self._coroutine is not None
        try:
            future = self._coroutine.send(None)
        except StopIteration as stop:
            self._finish(stop.value)
        except Exception:
            self._fail()
        except BaseException:
            self._fail()
            raise
        else:
            if future is None:
                # It needs a task from here on.
                self._task = self._loop.create_task(self._coroutine)
                self._task.add_done_callback(self._ended)
                return
            # As a task does with what its coroutine waits for.
            future._asyncio_future_blocking = False
            future.add_done_callback(self._step)

    def _ended(self, task: "asyncio.Task[Reply]") -> None:
        self._task = None
        if task.cancelled() or task.exception() is not None:
            self._fail()
        else:
            self._finish(task.result())

    def _finish(self, reply: Reply) -> None:
        call = self.call
        assert call is not None, "a request is under way"
        if isinstance(reply, StreamedReply) and reply.pieces is not None:
            self._write(reply.encoded(call.request_id, call.limit_fields))
            task = self._loop.create_task(reply.send(self, call.request_id))
            self._sending = task
            task.add_done_callback(partial(self._sent, reply))
            return
        self._end()
        self._write(reply.encoded(call.request_id, call.limit_fields, head=call.method == "HEAD"))
        self._go_on(call, reply)

    def _sent(self, reply: Reply, task: "asyncio.Task[None]") -> None:
        """Note that the last piece of an answer has been written, or that it has been cut off."""
        call = self.call
        assert call is not None, "a request is under way"
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            self._fail()
        else:
            self._end()
            self._go_on(call, reply)

    def _go_on(self, call: Call, reply: Reply) -> None:
        """Serve what waits behind a request that has been answered, unless the connection ends with it."""
        if call.head.checked:
            self.head = call.head
        if self._close or not reply.keep_alive:
            self.force_close()
        else:
            self._serve()

    def _fail(self) -> None:
        """End a request whose answer is lost, and its connection with it: nothing else may take the answer's place."""
        self._end()
        self.force_close()

    def _end(self) -> None:
        self.call = None
        self._unread = None
        self._coroutine = None
        self.end_request()

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    # --- Requests that wait for a place unread, in a flood.

    def _waits_unread(self, data: bytes) -> bool:
        """Have a hot request of a known key wait for a place as it is, if that can be done and there is none."""
        head = self.head
        if head is None:
            return False
        admission = self._pipeline.admission
        if not admission.full(write=data[:1] == b"P") or self._pipeline.remembered(head.token_name) is None:
            return False
        request = unread(data, head, time.monotonic())
        if request is None:
            return False
        self._unread = request
        self.begin_request()
        self.note_activity()
        admission.wait(self._read_admitted, self._refused_unread, write=request.write)
        return True

    def _read_admitted(self) -> None:
        """Read a request that has a place now."""
        request = self._unread
        assert request is not None, "it waits"
        self._end()
        if self.transport is None or self._close:
            # The caller has gone, or nothing is read any more; nothing has been done yet.
            self._pipeline.admission.leave(write=request.write)
            if self.transport is not None:
                self._refuse_unread(request)
            return
        # It has its place: it is not served as one that comes now.
        self._serving = True
        try:
            # Whether it is idle has changed if the service drains now.
            call = self._repeated.call(request.data, self, self._pipeline.admission) if self._idle else None
            if call is None:
                self._parse(request.data)
                call = self._read(*self._messages[0]) if self._messages else None
                if call is not None:
                    self.take_message()
            if call is None:
                self._pipeline.admission.leave(write=request.write)
            else:
                call.arrived = request.arrived
                call.placed = True
                self._start(call)
        finally:
            self._serving = False
        self._go_on_behind(request)

    def _refused_unread(self) -> None:
        request = self._unread
        assert request is not None, "it waits"
        self._end()
        if self.transport is not None:
            self._refuse_unread(request)

    def _refuse_unread(self, request: Unread) -> None:
        request_id = request.request_id or new_request_id()
        self._write(self._pipeline.refuse_unread(request, request_id).encoded(request_id))
        if self._close:
            self.force_close()
        else:
            self._go_on_behind(request)

    def _go_on_behind(self, request: Unread) -> None:
        """Read what has come behind a request that waited unread, and serve it in its turn."""
        self.read_on()
        if request.rest:
            self.data_received(request.rest)
        else:
            self._serve()

    # --- Requests served by aiohttp's task.

    def call_of(self, request: web.BaseRequest) -> Call:
        """Return the call that aiohttp's request is."""
        return self._new_call(request.method, request.raw_path, Head.of(request._message, self.head), request.content)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the reply to a request that aiohttp serves."""
        call = self.call_of(request)
        reply = await self._pipeline.respond(call)
        # aiohttp drops what came in one packet behind an upgrade it does not know, and reads nothing behind a body in
        # very many pieces that nobody has read: the connection ends with the answer.
        stuck = request.content.is_eof() and self.stuck
        if self._connections.draining or stuck or "Upgrade" in request.headers:
            reply.keep_alive = False
        return _for_aiohttp(call, reply)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that failed; what was received is neither repeated nor logged: aiohttp's pages do both."""
        del status, message
        call = self.call_of(request)
        return _for_aiohttp(call, self._pipeline.crashed(call, exc))

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Return what answers bytes that are not HTTP."""
        detail = TOO_LARGE if _is_too_large(err_info.exc) else ""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            call = self.call_of(request)
            return _for_aiohttp(call, await self._pipeline.malformed(call, detail))

        return answer


def _is_too_large(error: BaseException) -> bool:
    """Return whether the parser gave up on a head because of its size."""
    many = isinstance(error, BadHttpMessage) and "Too many headers" in error.message
    return many or isinstance(error, LineTooLong)


def _for_aiohttp(call: Call, reply: Reply) -> web.StreamResponse:
    """Return a reply in the form in which aiohttp sends it: no response of its own, but what its protocol calls."""
    return cast(web.StreamResponse, AiohttpReply(reply, call.request_id, call.limit_fields))
