"""The server: aiohttp's protocol, our one function from request to reply, and no stack in between."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from server.gate.keys import ApiKey, StrangersFullError
from server.http.admit import admit, refuse_running, used_up
from server.http.call import Call
from server.http.limits import (
    HEADERS_MAX,
    KEEPALIVE_SECONDS,
    LINGERING_SECONDS,
    REQUEST_LINE_MAX_BYTES,
)
from server.http.parts import Parts
from server.http.problems import Problem
from server.http.reply import PROBLEM, Reply
from server.http.routes import Route, find
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreError

# Seconds after which a refusal for want of room or of the store is worth another try.
RETRY_AFTER_SECONDS = 1

log = logging.getLogger(__name__)


class Protocol(RequestHandler):
    """aiohttp's connection, with its own error pages replaced: they repeat to the sender what was sent."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP; what was received is neither repeated nor logged."""
        problem = Problem("malformed_request" if status < 500 else "internal_error")
        # A client that leaves while its body is read is no failure of ours.
        if status >= 500 and not isinstance(exc, ConnectionError):
            log.error("request failed outside its handler", exc_info=exc)
        call = Call(request)
        reply = problem_reply(call, problem)
        reply.headers += _request_id_field(call)
        reply.keep_alive = False
        return cast(web.StreamResponse, reply)


class HttpServer(web.Server):
    """
    A server of the routes.

    Args:
        parts: What the handlers work with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Set when no new work is wanted: every reply then closes its connection.
        self.draining = False
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
            tcp_keepalive=True,
        )

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return Protocol(self, loop=asyncio.get_running_loop(), **self._kwargs)

    async def answer(self, request: web.BaseRequest) -> Reply:
        """Return the reply to a request; nothing that a caller sends makes this raise."""
        call = Call(request)
        try:
            reply = await self._serve(call)
        except Problem as problem:
            reply = problem_reply(call, problem)
        except QueueFullError:
            reply = problem_reply(call, _later("overloaded"))
        except OutcomeUnknownError:
            reply = problem_reply(call, _later("unavailable", outcome="unknown"))
        except StoreError:
            reply = problem_reply(call, _later("unavailable"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("request %s failed", call.request_id)
            reply = problem_reply(call, Problem("internal_error", outcome="unknown"))
        reply.headers += call.limit_fields + _request_id_field(call)
        # aiohttp drops what came in one packet behind an upgrade it does not know: the connection ends with the answer.
        if self.draining or "Upgrade" in request.headers:
            reply.keep_alive = False
        return reply

    async def _serve(self, call: Call) -> Reply:
        request = call.request
        call.check_headers()
        found = find(call.path)
        if found is None:
            raise Problem("not_found")
        methods, call.ids = found
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise Problem("method_not_allowed", headers=[("Allow", allowed)])
        if route.role is None:
            return await route.handler(call, self._parts)
        key = call.key = await self._authenticate(call)
        if key.role < route.role:
            # Counted as any other request, and whatever the limit says of it: what a key may do comes first.
            with contextlib.suppress(Problem):
                await admit(call, self._parts)
            raise Problem("forbidden", f"This needs a key with the role {route.role.name.lower()}.")
        running = self._parts.running
        if not running.enter(key):
            await refuse_running(call, self._parts)
        try:
            return await self._run(call, route)
        finally:
            running.leave(key)

    async def _run(self, call: Call, route: Route) -> Reply:
        # No write has a query: one that does is refused before its handler could take its tokens.
        if not route.takes_tokens or (call.write and call.query_string):
            await admit(call, self._parts)
        if call.write:
            call.query()
        return await route.handler(call, self._parts)

    async def _authenticate(self, call: Call) -> ApiKey:
        """Find out whose request this is; who fails too often from one address is told to wait."""
        scheme, _, token = call.request.headers.get("Authorization", "").partition(" ")
        failures, address = self._parts.failures, call.request.remote or ""

        async def refuse_used_up() -> None:
            if wait := await failures.used_up(address):
                raise used_up("authentication", wait)

        key = None
        if token and scheme.lower() == "bearer":
            try:
                key = await self._parts.authenticator.authenticate(token.strip(), refuse_used_up)
            except StrangersFullError:
                await failures.count(address)
                raise
        if key is not None:
            return key
        wait = await failures.count(address)
        if wait:
            raise used_up("authentication", wait)
        raise Problem("unauthorized", headers=[("WWW-Authenticate", "Bearer")])


def problem_reply(call: Call, problem: Problem) -> Reply:
    """Return the reply that a problem is sent as."""
    headers = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in problem.headers)
    return Reply(
        problem.kind.status,
        problem.body(call.request_id, write=call.write),
        content_type=PROBLEM,
        headers=headers,
    )


def _request_id_field(call: Call) -> bytes:
    return b"X-Request-Id: %b\r\n" % call.request_id.encode()


def _later(code: str, outcome: str = "not_applied") -> Problem:
    return Problem(code, outcome=outcome, headers=[("Retry-After", str(RETRY_AFTER_SECONDS))])
