"""The way of every request, from its head to its reply: route, key, place, gate, handler."""

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

# What the gate looks up for most routes.
NOTHING: Final = (LookUp.NOTHING, b"")


class Pipeline:
    """
    Answers requests.

    Until the handler begins, and in handlers of hot routes, a request waits for nothing but futures: so it can be run
    without a task (see `Connection`).

    Args:
        router: The routes, with their handlers.

        callers: Tells whose request it is.

        gate: Takes tokens and looks up what the route wants.

        observer: Is told of every request that ends.

        cors: What is said to pages of other origins; None where none is named.

    Attributes:
        admission: The places of requests with a good key.

        running: How many requests each key has under way.

        remembered: Returns the key of a token if it need not be looked up, by the hash of the token.
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
        Return the reply to a request; nothing that a caller sends makes this raise.

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
        Return the reply to a request of an operator of the server, as to one that came with *key*.

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
        """Give a reply the form that its caller asks for, and leave to be read by a page of another origin."""
        has_amounts = call.route is None or call.route.has_amounts
        if call.head.amounts_as_strings and has_amounts and reply.content_type in (JSON, PROBLEM):
            reply.change(as_strings)
        if self._cors is not None:
            reply.headers = self._cors.with_fields(reply.headers, call.head.origin)

    def refuse_unread(self, request: Unread, request_id: str) -> Reply:
        """Return the reply to a request of a flood for which there was no place: it has not even been read."""
        reply = self._overloaded(request_id, write=request.write)
        if self._cors is not None:
            reply.headers = self._cors.with_fields(reply.headers, request.origin)
        self.observer.refused(*request.route, reply.status, request.arrived)
        return reply

    async def malformed(self, call: Call, detail: str = "") -> Reply:
        """Return the reply to what is not HTTP, or too much of it; the connection ends with it."""
        try:
            async with self.callers.anonymous(call):
                raise Problem("malformed_request", detail)
        except (Problem, QueueFullError) as error:
            return self._last(call, error)

    def crashed(self, call: Call, error: BaseException | None) -> Reply:
        """Return the reply to a request that failed outside the pipeline; the connection ends with it."""
        # A client that leaves while its body is read is no failure of ours.
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
        # The rest of a request that comes late after all is no request.
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
        """Answer a browser that asks before it sends a request: it shows no key, and pays as others without one do."""
        await needs_task()
        async with self.callers.anonymous(call):
            call.head.check()
            return cors.preflight(_allowed(methods))

    async def _find_key(self, call: Call) -> ApiKey | None:
        """
        Return the key of a request; None where it has no good one.

        Raises:
            Problem: The head is wrong, or too much has come from the address without a good key.
            QueueFullError, StoreUnavailableError: The key could not be looked up.
        """
        try:
            call.head.check()
        except Problem:
            # Whose request it is cannot be told from it.
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
        """Serve a request without a good key: pages are open to all."""
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
            QueueFullError: There was none in time.
            ConnectionError: The caller has gone, and nothing has been done yet.
        """
        if not await self.admission.entered(write=call.write):
            raise QueueFullError
        if call.gone:
            self.admission.leave(write=call.write)
            raise ConnectionResetError
        return True

    async def _serve(self, call: Call, match: Match | None) -> Reply:
        """Serve a request that has a key and a place: gate, then handler."""
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
                    asked = decode_query(call.query_string, route.query)
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
        Go on in a task, with a key that is read anew where its effects outlive it: those of administrators.

        Raises:
            Problem: It was revoked or narrowed just now, and may not use the route.
            QueueFullError, StoreUnavailableError: It could not be read.
        """
        await needs_task()
        if route.role is Role.ADMIN and call.write and call.token:
            call.key = await self.callers.read_anew(call)
            _check_role(call.key, route)

    async def _check_allowed(self, call: Call, route: Route) -> None:
        """
        Return if the key may use a route.

        Raises:
            Problem: It may not.
        """
        try:
            _check_role(call.key, route)
        except Problem:
            # Counted as any other request, and whatever the limit says of it: what a key may do comes first.
            with contextlib.suppress(Problem):
                await self._take_tokens(call, 1)
            raise

    async def _read_items(self, call: Call, route: Route, items: str) -> Any:
        """Return the body of a bulk, which costs a token an item; one that is malformed costs one."""
        try:
            call.body = await read_body(call, BULK_BODY_MAX_BYTES)
            if route.make_room is not None:
                await route.make_room(call)
            body = self._decode(call, route)
        except Problem:
            await self._take_tokens(call, 1)
            raise
        # A preview may be of one transfer.
        await self._take_tokens(call, len(getattr(body, items) or (None,)))
        return body

    def _decode(self, call: Call, route: Route) -> Any:
        assert route.body is not None, "it is a write"
        return decode(self._decoders[route.body], call.body or (b"{}" if route.bodiless else b""))

    async def _take_tokens(self, call: Call, cost: int) -> None:
        """
        Take tokens for a request that needs nothing looked up.

        Raises:
            Problem, QueueFullError: As `_judge` and the gate.
        """
        decision = self._gate.exhausted(call.key) if cost == 1 else None
        self._judge(call, cost, decision or await self._gate.enter(call.key, cost))

    def _judge(self, call: Call, cost: int, decision: Decision) -> None:
        """
        Note what the gate has decided, and what the caller is told of its limit.

        Raises:
            Problem: The tokens are not there (429), or can never be (400). No idempotency key is bound.
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
    Return if a key may use a route.

    Raises:
        Problem: It may not.
    """
    assert route.role is not None, "pages are open to all"
    if key.role < route.role:
        raise Problem("forbidden", f"This needs a key with the role {route.role.name.lower()}.")
    if key.accounts is not None and not route.narrowed:
        raise Problem("forbidden", "This needs a key of the whole ledger: yours is narrowed to accounts.")


def _refuse_line(call: Call, match: Match | None) -> NoReturn:
    """
    Refuse a request for its first line.

    Raises:
        Problem: There is no such path, it has no such method, or it is a write and so takes no parameters.
    """
    if call.route is None:
        _refuse_target(match)
    decode_query(call.query_string, call.route.query)
    raise AssertionError("unreachable: there is no such parameter")


def _refuse_target(match: Match | None) -> NoReturn:
    """
    Refuse a request for what there is not.

    Raises:
        Problem: There is no such path, or it has no such method.
    """
    if match is None:
        raise Problem("not_found")
    raise Problem("method_not_allowed", headers=[("Allow", ", ".join(_allowed(match[0])))])


def _allowed(methods: Methods) -> list[str]:
    """Return the methods of a path, those included that need no route."""
    return [*methods, *(["HEAD"] if "GET" in methods else [])]
