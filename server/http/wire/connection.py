"""A client connection: turns received bytes into calls, runs each through the pipeline and writes its reply."""

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
from server.http.wire.connections import Connections
from server.http.wire.head import Head
from server.http.wire.protocol import Protocol
from server.http.wire.repeated import RepeatedHeads
from server.http.wire.unread import Unread, unread

TOO_LARGE: Final = (
    "The head of the request is too large. The request line and each header field may have up to "
    f"{REQUEST_LINE_MAX_BYTES} bytes. There may be up to {HEADERS_MAX} header fields, of {HEADERS_MAX_BYTES} bytes "
    "together. The connection is closed."
)


class Connection(Protocol):
    """
    Serves the requests of one connection, one after the other.

    A request that has arrived whole and does not end its connection is served here: its coroutine is stepped by hand at
    once, and gets a task only when it asks for one. aiohttp's task of the connection serves all other requests through
    the same pipeline, because it knows how to wait for bodies and how to end a connection.

    Args:
        pipeline: Answers the requests.

        connections: The state shared with the server's other connections.
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
        # The request being served here; its answer is the next thing written.
        self.call: Call | None = None
        # The request that waits for a place unread, if there is one.
        self._unread: Unread | None = None
        # Whether the next bytes are known to begin a request: the parser does not say whether it holds part of one.
        self._at_start = True
        # The last head that passed its check: of the request before, or of this one.
        self.head: Head | None = None
        self._repeated = RepeatedHeads()
        self._coroutine: Coroutine[Any, Any, Reply] | None = None
        self._task: asyncio.Task[Reply] | None = None
        # The task that sends an answer in pieces.
        self._sending: asyncio.Task[None] | None = None
        self._serving = False

    # --- Received bytes.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a connection, or refuse it when too many are open."""
        super().connection_made(transport)
        if not self._connections.too_many:
            self.expect_first_head()
            return
        request_id = new_request_id()
        # The request is not read, so its method is unknown. The answer to a write is also right for a read.
        reply = overloaded(request_id, write=True)
        reply.keep_alive = False
        self._write(reply.encoded(request_id))
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, and serve their request unless another is under way."""
        if not self.aiohttp_waits:
            # aiohttp is serving a request and takes the next in turn; or its task has not started yet, because this
            # request came together with the connection.
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
        """Serve the requests that arrived while writing was paused."""
        super().resume_writing()
        self._serve()

    def close(self) -> None:
        """End the connection once the request under way has been answered."""
        if not self.busy:
            super().close()
        else:
            self._close = True

    def _parse(self, data: bytes) -> bool:
        """Parse bytes, serve their request if none is under way, and return whether *data* was exactly one request."""
        self.parse(data)
        one = self._at_start and self._is_one_request(data)
        if data:
            # After it has read a body, aiohttp calls with no data in case the parser holds more. Behind exactly one
            # request the parser holds nothing, so such a call changes nothing here.
            self._at_start = one
        if self._messages:
            self._serve()
            self.bound_waiting_bytes()
        elif data and not self.busy and not self._serving:
            self.expect_rest_of_head(len(data))
        return one

    def _is_one_request(self, data: bytes) -> bool:
        """Return whether *data*, which began a request and was just parsed, is one request and nothing else."""
        if len(self._messages) != 1:
            return False
        message, payload = self._messages[0]
        if not isinstance(message, RawRequestMessage) or message.upgrade:
            # The bytes after an upgrade are no request.
            return False
        return payload.is_eof() and data.find(b"\r\n\r\n") + 4 + payload.total_bytes == len(data)

    # --- Requests served here.

    @property
    def _idle(self) -> bool:
        """Whether the next bytes may be served at once as a new request, if `aiohttp_waits` and none waits unread."""
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
        """Serve parsed requests until one is left under way or aiohttp has to take over."""
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
        """Return the call for a parsed message, or None if aiohttp has to serve it."""
        if self._connections.draining or not payload.is_eof() or not isinstance(message, RawRequestMessage):
            return None
        if self._reading_paused:
            # Its body is in so many pieces that the connection reads nothing more until somebody reads the body.
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
        """Run a request until it first has to wait."""
        self.call = call
        self.begin_request()
        self._coroutine = self._pipeline.respond(call)
        self._step()

    def _step(self, _waited_for: "asyncio.Future[Any] | None" = None) -> None:
        """Run the request until it waits again or ends, as a task would but without a task's cost."""
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
                # The coroutine asks for a task from here on (`needs_task`).
                self._task = self._loop.create_task(self._coroutine)
                self._task.add_done_callback(self._ended)
                return
            # A task does the same with the future that its coroutine awaits.
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
        """Finish a streamed answer: its last piece was written, or it was cut off."""
        call = self.call
        assert call is not None, "a request is under way"
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            self._fail()
        else:
            self._end()
            self._go_on(call, reply)

    def _go_on(self, call: Call, reply: Reply) -> None:
        """Serve the requests behind one that was answered, unless the connection ends with it."""
        if call.head.checked:
            self.head = call.head
        if self._close or not reply.keep_alive:
            self.force_close()
        else:
            self._serve()

    def _fail(self) -> None:
        """End a request whose answer is lost, and its connection, so that no later answer is taken for the lost one."""
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

    # --- Requests that wait unread for a place, during a flood.

    def _waits_unread(self, data: bytes) -> bool:
        """Let a hot request of a known key wait unparsed if no place is free; return whether it waits."""
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
        """Parse and serve an unread request that has just got a place."""
        request = self._unread
        assert request is not None, "it waits"
        self._end()
        if self.transport is None or self._close:
            # The caller has gone, or the connection is closing. The request has had no effect yet.
            self._pipeline.admission.leave(write=request.write)
            if self.transport is not None:
                self._refuse_unread(request)
            return
        # Keeps `_parse` from serving it as a new request: this one already has its place.
        self._serving = True
        try:
            # The connection is not idle any more if the server began to drain while the request waited.
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
        """Parse and serve the bytes that arrived behind an unread request."""
        self.read_on()
        if request.rest:
            self.data_received(request.rest)
        else:
            self._serve()

    # --- Requests served by aiohttp's task.

    def call_of(self, request: web.BaseRequest) -> Call:
        """Return the call for a request of aiohttp."""
        return self._new_call(request.method, request.raw_path, Head.of(request._message, self.head), request.content)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the reply to a request that aiohttp serves."""
        call = self.call_of(request)
        reply = await self._pipeline.respond(call)
        # The connection has to end in two cases: aiohttp drops bytes that came in one packet behind an upgrade that it
        # does not know, and it reads nothing more behind an unread body in very many pieces.
        stuck = request.content.is_eof() and self.stuck
        if self._connections.draining or stuck or "Upgrade" in request.headers:
            reply.keep_alive = False
        return _for_aiohttp(call, reply)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that failed, without showing or logging its bytes, both of which aiohttp's own pages do."""
        del status, message
        call = self.call_of(request)
        return _for_aiohttp(call, self._pipeline.crashed(call, exc))

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Return the handler that answers bytes that are not HTTP."""
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
    """Return a reply in a form that aiohttp can send: it has the methods that aiohttp's protocol calls."""
    return cast(web.StreamResponse, AiohttpReply(reply, call.request_id, call.limit_fields))
