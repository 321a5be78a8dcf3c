"""The path of every request from its head to its reply: route, key, place, gate, handler."""

import contextlib
import logging
import time
from functools import partial
from typing import Any, Final, NoReturn

import msgspec

from server.gate.gate import Decision, Gate, LookUp
from server.gate.keys import ApiKey, Role
from server.http.admission import Admission
from server.http.amounts import as_strings
from server.http.call import Call
from server.http.callers import Callers, needs_key
from server.http.cors import Cors
from server.http.headers import header, retry_after
from server.http.limits import BODY_MAX_BYTES, BULK_BODY_MAX_BYTES
from server.http.observer import Observer
from server.http.overload import overloaded
from server.http.problems import Problem, problem_of
from server.http.query import decode_query
from server.http.rate_limits import QuotaExceededProblem, limit_fields, too_costly, too_many_running
from server.http.reply import JSON, PROBLEM, Reply, StreamedReply
from server.http.route import Route
from server.http.router import Match, Methods, Router
from server.http.wire.body import decode, read_body
from server.http.wire.unread import Unread
from server.store.by_hand import needs_task
from server.store.coalescer import QueueFullError

log = logging.getLogger(__name__)

# For most routes the gate looks up nothing.
NOTHING: Final = (LookUp.NOTHING, b"")


class Pipeline:
    """
    Answers requests.

    Until the handler begins, and in handlers of hot routes, a request awaits nothing but futures. So it can be run
    without a task (see `Connection`).

    Args:
        router: The routes, with their handlers.

        callers: Finds the key of a request.

        gate: Takes tokens and looks up what the route needs.

        observer: Records every request that ends.

        cors: The answers to pages of other origins; None if no origin is allowed.

    Attributes:
        admission: The places of requests with a good key.

        running: How many requests each key has under way.

        remembered: Takes the hash of a token and returns its key, or None if the key has to be looked up.
    """

    def __init__(
        self,
        router: Router,
        callers: Callers,
        gate: Gate,
        observer: Observer,
        cors: Cors | None = None,
    ) -> None:
        self._router = router
        self.callers = callers
        self.remembered = callers.remembered
        self._gate = gate
        self.observer = observer
        self.admission = Admission()
        self.running = gate.running
        self._cors = cors
        self._decoders = {route.body: msgspec.json.Decoder(route.body) for route in router.routes if route.body}

    async def respond(self, call: Call) -> Reply:
        """
        Return the reply to a request. No bytes of a caller make this raise.

        Raises:
            ConnectionError: The caller is gone.
        """
        try:
            match = self._router.find(call.path) if call.route is None else None
            if match is not None:
                methods, call.names = match
                call.route = methods.get("GET" if call.method == "HEAD" else call.method)
            if call.route is not None and call.route.free:
                reply = await self._probe(call, call.route)
            elif match is not None and self._cors is not None and self._cors.is_preflight(call):
                reply = await self._preflight(call, self._cors, match[0])
            else:
                head = call.head
                key = self.remembered(call.token_name) if head.checked and call.token else None
                if key is None:
                    key = await self._find_key(call)
                if key is None:
                    reply = await self._serve_anyone(call, match)
                else:
                    call.key = key
                    if not call.placed:
                        call.placed = self.admission.enter(write=call.write) or await self._wait_for_place(call)
                    reply = await self._serve(call, match)
        except ConnectionError:
            raise
        except Exception as error:
            reply = self.failure(call, error)
        finally:
            call.release_place()
        if call.head.amounts_as_strings or self._cors is not None:
            self._suit(call, reply)
        self.observer.ended(call, reply.status)
        return reply

    async def operate(self, call: Call, key: ApiKey) -> Reply:
        """
        Return the reply to a request of the server's operator, treated as one that came with *key*.

        Raises:
            ConnectionError: The operator is gone.
        """
        try:
            match = self._router.find(call.path)
            if match is None:
                _refuse_target(match)
            methods, call.names = match
            call.route, call.key, call.token = methods.get(call.method), key, ""
            reply = await self._serve(call, match)
        except ConnectionError:
            raise
        except Exception as error:
            reply = self.failure(call, error)
        finally:
            call.release_place()
        self._suit(call, reply)
        return reply

    def _suit(self, call: Call, reply: Reply) -> None:
        """Turn amounts into strings if the caller asks for it, and add the header fields of CORS."""
        has_amounts = call.route is None or call.route.has_amounts
        if call.head.amounts_as_strings and has_amounts and reply.content_type in (JSON, PROBLEM):
            reply.change(as_strings)
        if self._cors is not None:
            reply.headers = self._cors.with_fields(reply.headers, call.head.origin)

    def refuse_unread(self, request: Unread, request_id: str) -> Reply:
        """Return the refusal of an unread request of a flood that got no place in time."""
        reply = self._overloaded(request_id, write=request.write)
        if self._cors is not None:
            reply.headers = self._cors.with_fields(reply.headers, request.origin)
        self.observer.refused(*request.route, reply.status, request.arrived)
        return reply

    async def malformed(self, call: Call, detail: str = "") -> Reply:
        """Return the reply to bytes that are not HTTP, or to a head that is too large; it ends the connection."""
        try:
            async with self.callers.anonymous(call):
                raise Problem("malformed_request", detail)
        except (Problem, QueueFullError) as error:
            return self._last(call, error)

    def crashed(self, call: Call, error: BaseException | None) -> Reply:
        """Return the reply to a request that failed outside the pipeline; it ends the connection."""
        # A client that leaves while its body is read is no error of the server.
        if not isinstance(error, ConnectionError):
            log.error("request failed outside its handler", exc_info=error)
        return self._last(call, Problem("internal_error"))

    def _last(self, call: Call, error: Exception) -> Reply:
        reply = self.failure(call, error)
        reply.keep_alive = False
        self._suit(call, reply)
        self.observer.ended(call, reply.status)
        return reply

    def failure(self, call: Call, error: Exception) -> Reply:
        """Return the reply to a request that ended with *error*."""
        if isinstance(error, QueueFullError):
            return self._overloaded(call.request_id, write=call.write)
        problem = problem_of(error)
        if problem.code == "internal_error" and error is not problem:
            log.error("request %s failed", call.request_id, exc_info=error)
        self.observer.tallies.problems[problem.code] += 1
        headers = b"".join(header(name, value) for name, value in problem.headers)
        if problem.retry_after is not None:
            headers += retry_after(problem.retry_after)
        body = problem.body(call.request_id, write=call.write)
        reply = Reply(problem.kind.status, body, content_type=PROBLEM, headers=headers)
        # Late bytes of the timed-out request must not be taken for a new request.
        reply.keep_alive = problem.code != "request_timeout"
        return reply

    def _overloaded(self, request_id: str, *, write: bool) -> Reply:
        self.observer.tallies.problems["overloaded"] += 1
        return overloaded(request_id, write=write)

    async def _probe(self, call: Call, route: Route) -> Reply:
        call.head.check()
        await needs_task()
        return await route.handler(call, None)

    async def _preflight(self, call: Call, cors: Cors, methods: Methods) -> Reply:
        """Answer a browser's preflight, which has no key and counts against the address like others without a key."""
        await needs_task()
        async with self.callers.anonymous(call):
            call.head.check()
            return cors.preflight(_allowed(methods))

    async def _find_key(self, call: Call) -> ApiKey | None:
        """
        Return the key of a request, or None if it has no good one.

        Raises:
            Problem: The head is wrong, or the address has sent too many requests without a good key.
            QueueFullError, StoreUnavailableError: The key could not be looked up.
        """
        try:
            call.head.check()
        except Problem:
            # A wrong head does not show reliably whose request it is.
            await needs_task()
            async with self.callers.anonymous(call):
                raise
        if call.token and (key := self.remembered(call.token_name)):
            return key
        self.callers.refuse_flood(call)
        call.release_place()
        await needs_task()
        return await self.callers.authenticate(call)

    async def _serve_anyone(self, call: Call, match: Match | None) -> Reply:
        """Serve a request without a good key: refuse it, unless it is for a page, which is open to all."""
        if needs_key(call):
            await self.callers.refuse(call)
        async with self.callers.anonymous(call):
            if call.route is None:
                _refuse_target(match)
            return await call.route.handler(call, None)

    async def _wait_for_place(self, call: Call) -> bool:
        """
        Wait for a place, and return True.

        Raises:
            QueueFullError: No place became free in time.
            ConnectionError: The caller has gone. The request has had no effect yet.
        """
        if not await self.admission.entered(write=call.write):
            raise QueueFullError
        if call.gone:
            self.admission.leave(write=call.write)
            raise ConnectionResetError
        return True

    async def _serve(self, call: Call, match: Match | None) -> Reply:
        """Pass a request that has a key and a place through the gate and then to its handler."""
        key, route = call.key, call.route
        if route is not None and route.role is not None and (key.role < route.role or key.accounts is not None):
            await self._check_allowed(call, route)
        if not self.running.enter(key):
            await self._take_tokens(call, 0)
            raise too_many_running(key)
        goes_on = False
        try:
            if route is None or (route.body is not None and call.query_string):
                await self._take_tokens(call, 1)
                _refuse_line(call, match)
            if route.items is not None:
                asked = await self._read_items(call, route, route.items)
            else:
                look_up, name = NOTHING if route.look_up is None else route.look_up(call)
                cost = 1 if route.cost is None else route.cost(call)
                known = self._gate.exhausted(key) if cost else None
                self._judge(call, cost, known or await self._gate.enter(key, cost, look_up, name))
                if route.body is None:
                    # Pages ignore parameters.
                    asked = None if route.role is None else decode_query(call.query_string, route.query)
                else:
                    call.body = await read_body(call, BODY_MAX_BYTES)
                    if route.replay is not None and (reply := route.replay(call)) is not None:
                        return reply
                    asked = self._decode(call, route)
            if not route.hot:
                await self._go_on(call, route)
            reply = await route.handler(call, asked)
            if isinstance(reply, StreamedReply) and reply.pieces is not None:
                reply.when_ended(partial(self.running.leave, key))
                goes_on = True
            return reply
        finally:
            if not goes_on:
                self.running.leave(key)

    async def _go_on(self, call: Call, route: Route) -> None:
        """
        Go on in a task, and read the key anew for writes of administrators, because their effects outlive the key.

        Raises:
            Problem: The key has just been revoked or narrowed and may no longer use the route.
            QueueFullError, StoreUnavailableError: The key could not be read.
        """
        await needs_task()
        if route.role is Role.ADMIN and call.write and call.token:
            call.key = await self.callers.read_anew(call)
            _check_role(call.key, route)

    async def _check_allowed(self, call: Call, route: Route) -> None:
        """
        Refuse a request whose key may not use the route.

        Raises:
            Problem: The key may not use the route.
        """
        try:
            _check_role(call.key, route)
        except Problem:
            # The request costs a token like any other, but even if none is left, the missing permission is reported.
            with contextlib.suppress(Problem):
                await self._take_tokens(call, 1)
            raise

    async def _read_items(self, call: Call, route: Route, items: str) -> Any:
        """Return the body of a bulk, which costs one token per item; a malformed bulk costs one token."""
        try:
            call.body = await read_body(call, BULK_BODY_MAX_BYTES)
            if route.make_room is not None:
                await route.make_room(call)
            body = self._decode(call, route)
        except Problem:
            await self._take_tokens(call, 1)
            raise
        # A preview may be of a single transfer: it has no list and costs one token.
        await self._take_tokens(call, len(getattr(body, items) or (None,)))
        return body

    def _decode(self, call: Call, route: Route) -> Any:
        assert route.body is not None, "it is a write"
        return decode(self._decoders[route.body], call.body or (b"{}" if route.bodiless else b""))

    async def _take_tokens(self, call: Call, cost: int) -> None:
        """
        Take tokens for a request without a look-up.

        Raises:
            Problem, QueueFullError: As `_judge` and the gate raise them.
        """
        decision = self._gate.exhausted(call.key) if cost == 1 else None
        self._judge(call, cost, decision or await self._gate.enter(call.key, cost))

    def _judge(self, call: Call, cost: int, decision: Decision) -> None:
        """
        Store the gate's decision in the call, and the limit fields of the reply.

        Raises:
            Problem: There are not enough tokens (429), or there never can be (400). No idempotency key is bound.
        """
        key = call.key
        call.limit_fields = limit_fields(key, decision.left)
        if decision.wait:
            if decision.wait < 0:
                raise too_costly(key, cost, decision.waits_for)
            raise QuotaExceededProblem(key.policies[decision.waits_for], decision.wait)
        call.decision = decision
        call.gated = time.monotonic()


def _check_role(key: ApiKey, route: Route) -> None:
    """
    Refuse a key that may not use a route.

    Raises:
        Problem: The key may not use the route.
    """
    assert route.role is not None, "pages are open to all"
    if key.role < route.role:
        raise Problem("forbidden", f"This request needs a key with the role {route.role.name.lower()}.")
    if key.accounts is not None and not route.narrowed:
        raise Problem("forbidden", "This request needs a key of the whole ledger, and yours is narrowed to accounts.")


def _refuse_line(call: Call, match: Match | None) -> NoReturn:
    """
    Refuse a request because of its first line.

    Raises:
        Problem: The path does not exist, it does not have the method, or a write has query parameters.
    """
    if call.route is None:
        _refuse_target(match)
    decode_query(call.query_string, call.route.query)
    raise AssertionError("unreachable: there is no such parameter")


def _refuse_target(match: Match | None) -> NoReturn:
    """
    Refuse a request whose path or method does not exist.

    Raises:
        Problem: The path does not exist, or it does not have the method.
    """
    if match is None:
        raise Problem("not_found")
    raise Problem("method_not_allowed", headers=[("Allow", ", ".join(_allowed(match[0])))])


def _allowed(methods: Methods) -> list[str]:
    """Return the methods of a path, including HEAD where it has GET."""
    return [*methods, *(["HEAD"] if "GET" in methods else [])]
