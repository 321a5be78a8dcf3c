"""The server: our one function from request to reply, and no stack in between."""

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from server.gate.gate import Entry
from server.gate.keys import ApiKey
from server.http import hot_read, hot_write
from server.http.accounts import get_admitted
from server.http.admission import Admission, retry_after
from server.http.admit import admit, judge, refuse_running
from server.http.call import Call, origin_form
from server.http.callers import Callers, fails
from server.http.head import Head
from server.http.limits import (
    CONNECTIONS_MAX,
    FILES_RESERVED,
    HEADERS_MAX,
    KEEPALIVE_SECONDS,
    LINGERING_SECONDS,
    READ_BUFFER_BYTES,
    REQUEST_LINE_MAX_BYTES,
)
from server.http.observer import Observer
from server.http.parts import Parts
from server.http.problems import Problem
from server.http.protocol import Protocol
from server.http.refusal import limited, limited_by, overloaded, overloaded_at_once
from server.http.reply import PROBLEM, Reply
from server.http.routes import Found, Route, find
from server.http.transfers import create_admitted
from server.http.unread import Unread
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreError

# Where an answer has its status.
_STATUS = slice(9, 12)

log = logging.getLogger(__name__)


class HttpServer(web.Server):
    """
    A server of the routes.

    Args:
        parts: What the handlers work with.

        observer: Is told of every request that ends.
    """

    def __init__(self, parts: Parts, observer: Observer) -> None:
        self._parts = parts
        self.observer = observer
        self.admission = Admission()
        self.callers = Callers(parts)
        # Set when no new work is wanted: every reply then closes its connection.
        self.draining = False
        self.connections_open = 0
        self.connections_max = _connections_max()
        handler = cast(Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], self.answer)
        super().__init__(
            handler,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            max_line_size=REQUEST_LINE_MAX_BYTES,
            max_field_size=REQUEST_LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            read_bufsize=READ_BUFFER_BYTES,
            tcp_keepalive=True,
        )

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return Protocol(self, self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection."""
        self.connections_open += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Count a connection less."""
        self.connections_open -= 1
        super().connection_lost(handler, exc)

    def call(self, request: web.BaseRequest) -> Call:
        """Return the call that aiohttp's request is."""
        head = Head.of(request._message, cast(Protocol, request.protocol).head)
        path, _, query = origin_form(request.raw_path).partition("?")
        call = Call((request.method, path, query), head, request.content, request.protocol, self.admission)
        call.arrived = time.monotonic()
        return call

    async def answer(self, request: web.BaseRequest) -> Reply:
        """Return the reply to a request that aiohttp serves; nothing that a caller sends makes this raise."""
        call = self.call(request)
        found = find(call.path)
        try:
            reply = await self._admit(call, found)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            reply = self.failure(call, error)
        reply.headers += call.own_fields()
        # aiohttp drops what came in one packet behind an upgrade it does not know, and reads nothing behind a body in
        # very many pieces that nobody has read: the connection ends with the answer.
        stuck = request.content.is_eof() and cast(Protocol, request.protocol).stuck
        if self.draining or stuck or "Upgrade" in request.headers:
            reply.keep_alive = False
        self.observer.ended(call, reply.status)
        return reply

    async def _admit(self, call: Call, found: Found | None) -> Reply:
        """Serve a request once it has a place; health needs none, and is answered however busy the worker is."""
        route = None if found is None else _route(found, call.method)
        if route is not None:
            call.route = route.path
        if found is not None:
            call.ids = found[1]
        if route is not None and route.free:
            call.head.check()
            return await route.handler(call, self._parts)
        try:
            call.head.check()
        except Problem:
            # Whose request it is cannot be told from it.
            async with self.callers.anonymous(call):
                raise
        key = await self.callers.key_of(call, route)
        if key is None and fails(call, route):
            await self.callers.refuse(call)
        if key is None:
            async with self.callers.anonymous(call):
                return await self._handle(call, found)
        call.key = key
        if not await self.admission.entered(write=call.write):
            raise _later("overloaded")
        call.placed = True
        try:
            return await self.serve(call, found)
        finally:
            call.give_place_away()

    async def malformed(self, request: web.BaseRequest) -> Reply:
        """Return the answer to what is not HTTP."""
        call = self.call(request)
        try:
            async with self.callers.anonymous(call):
                raise Problem("malformed_request")
        except (Problem, QueueFullError) as error:
            return self._last(call, self.failure(call, error))

    def failed(self, request: web.BaseRequest, error: BaseException | None) -> Reply:
        """Return the answer to a request that failed outside its handler."""
        # A client that leaves while its body is read is no failure of ours.
        if not isinstance(error, ConnectionError):
            log.error("request failed outside its handler", exc_info=error)
        call = self.call(request)
        return self._last(call, self.problem_reply(call, Problem("internal_error")))

    def _last(self, call: Call, reply: Reply) -> Reply:
        """Return a reply as the last one of its connection, and note it."""
        self.observer.ended(call, reply.status)
        reply.headers += call.own_fields()
        reply.keep_alive = False
        return reply

    def refusal(self, call: Call) -> bytes:
        """Return all that is sent to a request for which there was no place."""
        self.observer.tallies.problems["overloaded"] += 1
        self.observer.ended(call, 503)
        return overloaded(call.request_id, write=call.write).encoded()

    def refusal_unread(self, request: Unread) -> bytes:
        """Return the same for a request that was not even read."""
        self.observer.tallies.problems["overloaded"] += 1
        self.observer.refused(*request.route, 503, request.arrived)
        return overloaded_at_once(request.request_id, write=request.write)

    def failure(self, call: Call, error: BaseException) -> Reply:
        """Return the reply to a request that ended with *error*."""
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, QueueFullError):
            problem = _later("overloaded")
        elif isinstance(error, OutcomeUnknownError):
            problem = _later("unavailable", outcome="unknown")
        elif isinstance(error, StoreError):
            problem = _later("unavailable")
        else:
            log.error("request %s failed", call.request_id, exc_info=error)
            problem = Problem("internal_error", outcome="unknown")
        return self.problem_reply(call, problem)

    def problem_reply(self, call: Call, problem: Problem) -> Reply:
        """Return the reply that a problem is sent as."""
        self.observer.tallies.problems[problem.code] += 1
        headers = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in problem.headers)
        reply = Reply(
            problem.kind.status,
            problem.body(call.request_id, write=call.write),
            content_type=PROBLEM,
            headers=headers,
        )
        # The rest of a request that comes late after all is no request.
        reply.keep_alive = problem.code != "request_timeout"
        return reply

    async def serve(self, call: Call, found: Found | None) -> Reply:
        """
        Return the reply to a request that has a key and a place.

        Raises:
            Exception: Why there is none; `failure` says what is answered then.
        """
        route = None if found is None else _route(found, call.method)
        key = call.key
        if route is not None and route.role is not None and key.role < route.role:
            # Counted as any other request, and whatever the limit says of it: what a key may do comes first.
            with contextlib.suppress(Problem):
                await admit(call, self._parts)
            raise Problem("forbidden", f"This needs a key with the role {route.role.name.lower()}.")
        running = self._parts.running
        if not running.enter(key):
            await refuse_running(call, self._parts)
        try:
            # No write has a query: one that does is refused before its handler could take its tokens.
            if route is None or not route.takes_tokens or (call.write and call.query_string):
                await admit(call, self._parts)
            if call.write and route is not None:
                call.query()
            return await self._handle(call, found)
        finally:
            running.leave(key)

    async def _handle(self, call: Call, found: Found | None) -> Reply:
        """
        Return what answers a request that has taken its tokens.

        Raises:
            Problem: There is no such path, or it has no such method; or as the handler says.
        """
        if found is None:
            raise Problem("not_found")
        route = _route(found, call.method)
        if route is None:
            methods = found[0]
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise Problem("method_not_allowed", headers=[("Allow", allowed)])
        return await route.handler(call, self._parts)

    def known(self, head: Head) -> ApiKey | None:
        """Return the key that a request came with where it need not be looked up."""
        return self._parts.authenticator.remembered(head.token_name) if head.token else None

    def begin(self, call: Call) -> "asyncio.Future[Entry] | bytes | None":
        """
        Begin to serve a plain hot request with a key that is known, and count it as running.

        Returns:
            What the gate will say; all that is sent where it is refused, and not running; None: there is more to it.

        Raises:
            Exception: Why it is refused; it is not running.
        """
        said = (hot_write if call.write else hot_read).begin(call, self._parts)
        return self._limited(call, said) if isinstance(said, Entry) else said

    def end(self, call: Call, entry: Entry) -> bytes | None:
        """Return all that is sent to a request that was begun; None where it goes on: the cache does not answer it."""
        if entry.wait > 0:
            self._parts.running.leave(call.key)
            return self._limited(call, entry)
        answer: bytes | None = (hot_write if call.write else hot_read).answer(call, self._parts, entry)
        if answer is not None:
            self.observer.ended(call, int(answer[_STATUS]) if call.write else 200)
        return answer

    def refused(self, call: Call, route: Route | None) -> bytes | None:
        """Return all that is sent to a request without a good key whose address is known to have nothing left."""
        refused = self.callers.refused(call, route)
        if refused is None:
            return None
        self.observer.tallies.problems["quota_exceeded"] += 1
        self.observer.ended(call, 429)
        return limited_by(call, *refused)

    def _limited(self, call: Call, entry: Entry) -> bytes:
        self.observer.tallies.problems["quota_exceeded"] += 1
        self.observer.ended(call, 429)
        return limited(call, entry)

    async def go_on(self, call: Call, said: "asyncio.Future[Entry]") -> Reply:
        """
        Return the reply to a hot request that was begun, once the gate has spoken.

        Raises:
            Exception: As `serve`.
        """
        parts = self._parts
        try:
            entry = judge(call, 1, said.result())
            return await (create_admitted if call.write else get_admitted)(call, parts, entry)
        finally:
            parts.running.leave(call.key)


def _connections_max() -> int:
    """Return how many connections there may be, having asked for as many files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_RESERVED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return min(CONNECTIONS_MAX, wanted - FILES_RESERVED)


def _route(found: Found, method: str) -> Route | None:
    return found[0].get("GET" if method == "HEAD" else method)


def _later(code: str, outcome: str = "not_applied") -> Problem:
    return Problem(code, outcome=outcome, headers=[("Retry-After", str(retry_after()))])
