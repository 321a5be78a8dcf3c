"""The way of every request, from its head to its reply: route, key, place, gate, handler."""

import contextlib
import logging
import time
import types
from collections.abc import Generator
from typing import Any, NoReturn

import msgspec

from server.gate.gate import Gate, LookUp
from server.gate.keys import ApiKey
from server.gate.running import Running
from server.http.admission import Admission
from server.http.body import decode, read_body
from server.http.call import Call
from server.http.callers import Callers, needs_key
from server.http.limits import BODY_MAX_BYTES, BULK_BODY_MAX_BYTES
from server.http.observer import Observer
from server.http.overload import overloaded, retry_after_seconds
from server.http.problems import Problem
from server.http.query import decode_query
from server.http.rate_limits import UsedUpProblem, limit_fields, too_costly, too_many_running
from server.http.reply import PROBLEM, Reply, header, retry_after
from server.http.route import Route
from server.http.routes import Methods, Router
from server.http.unread import Unread
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreError

log = logging.getLogger(__name__)


@types.coroutine
def needs_task() -> Generator[None, None, None]:
    """Let the rest of a coroutine run in a task: what comes may wait for anything, not for futures alone."""
    yield


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

    Attributes:
        admission: The places of requests with a good key.

        running: How many requests each key has under way.
    """

    def __init__(self, router: Router, callers: Callers, gate: Gate, observer: Observer) -> None:
        self._router = router
        self.callers = callers
        self._gate = gate
        self.observer = observer
        self.admission = Admission()
        self.running = Running()
        self._decoders = {route.body: msgspec.json.Decoder(route.body) for route in router.routes if route.body}

    def remembered(self, token_name: bytes) -> ApiKey | None:
        """Return the key of a token if it need not be looked up, by the hash of the token."""
        return self.callers.remembered(token_name)

    async def respond(self, call: Call) -> Reply:
        """
        Return the reply to a request; nothing that a caller sends makes this raise.

        Raises:
            ConnectionError: The caller is gone.
        """
        try:
            reply = await self._respond(call)
        except ConnectionError:
            raise
        except Exception as error:
            reply = self.failure(call, error)
        finally:
            call.release_place()
        self.observer.ended(call, reply.status)
        return reply

    def refuse_unread(self, request: Unread, request_id: str) -> Reply:
        """Return the reply to a request of a flood for which there was no place: it has not even been read."""
        reply = self._overloaded(request_id, write=request.write)
        self.observer.refused(*request.route, reply.status, request.arrived)
        return reply

    async def malformed(self, call: Call) -> Reply:
        """Return the reply to what is not HTTP; the connection ends with it."""
        try:
            async with self.callers.anonymous(call):
                raise Problem("malformed_request")
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
        self.observer.ended(call, reply.status)
        return reply

    def failure(self, call: Call, error: Exception) -> Reply:
        """Return the reply to a request that ended with *error*: the one place where errors become statuses."""
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, QueueFullError):
            return self._overloaded(call.request_id, write=call.write)
        elif isinstance(error, OutcomeUnknownError):
            problem = Problem("unavailable", outcome="unknown", retry_after=retry_after_seconds())
        elif isinstance(error, StoreError):
            problem = Problem("unavailable", retry_after=retry_after_seconds())
        else:
            log.error("request %s failed", call.request_id, exc_info=error)
            problem = Problem("internal_error", outcome="unknown")
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

    async def _respond(self, call: Call) -> Reply:
        match = self._router.find(call.path)
        methods = None
        if match is not None:
            methods, call.names = match
            call.route = methods.get("GET" if call.method == "HEAD" else call.method)
        head = call.head
        if call.route is not None and call.route.free:
            head.check()
            await needs_task()
            return await call.route.handler(call, None)
        try:
            head.check()
        except Problem:
            # Whose request it is cannot be told from it.
            await needs_task()
            async with self.callers.anonymous(call):
                raise
        key = self.callers.remembered(head.token_name) if head.token else None
        if key is None:
            self.callers.refuse_flood(call)
            call.release_place()
            await needs_task()
            key = await self.callers.authenticate(call)
        if key is None:
            return await self._without_key(call, methods)
        call.key = key
        await self._take_place(call)
        return await self._with_key(call, methods)

    async def _without_key(self, call: Call, methods: Methods | None) -> Reply:
        """Answer a request without a good key: pages are open to all."""
        route = call.route
        if needs_key(call):
            await self.callers.refuse(call)
        async with self.callers.anonymous(call):
            if route is None:
                _refuse_target(methods)
            return await route.handler(call, None)

    async def _take_place(self, call: Call) -> None:
        """
        Wait for a place, unless the request has one.

        Raises:
            QueueFullError: There was none in time.
            ConnectionError: The caller has gone, and nothing has been done yet.
        """
        if call.placed:
            return
        if not self.admission.enter(write=call.write):
            if not await self.admission.entered(write=call.write):
                raise QueueFullError
            call.placed = True
            if call.gone:
                raise ConnectionResetError
        call.placed = True

    async def _with_key(self, call: Call, methods: Methods | None) -> Reply:
        key, route = call.key, call.route
        if route is not None and route.role is not None and key.role < route.role:
            # Counted as any other request, and whatever the limit says of it: what a key may do comes first.
            with contextlib.suppress(Problem):
                await self._ask_gate(call)
            raise Problem("forbidden", f"This needs a key with the role {route.role.name.lower()}.")
        if not self.running.enter(key):
            await self._ask_gate(call, 0)
            raise too_many_running(key)
        try:
            if route is None:
                await self._ask_gate(call)
                _refuse_target(methods)
            return await self._run(call, route)
        finally:
            self.running.leave(key)

    async def _run(self, call: Call, route: Route) -> Reply:
        if route.body is None:
            return await self._read(call, route)
        if call.query_string:
            await self._ask_gate(call)
            # No write has one.
            decode_query(call.query_string, route.query)
        if route.items is None:
            return await self._write(call, route)
        return await self._write_many(call, route, route.items)

    async def _read(self, call: Call, route: Route) -> Reply:
        if route.look_up is None:
            await self._ask_gate(call)
        else:
            await self._ask_gate(call, 1, *route.look_up(call))
        query = decode_query(call.query_string, route.query)
        if not route.hot:
            await needs_task()
        return await route.handler(call, query)

    async def _write(self, call: Call, route: Route) -> Reply:
        if route.look_up is None:
            await self._ask_gate(call)
        else:
            await self._ask_gate(call, 1, *route.look_up(call))
        call.body = await read_body(call, BODY_MAX_BYTES)
        if route.replay is not None and (reply := route.replay(call)) is not None:
            return reply
        body = self._decode(call, route)
        if not route.hot:
            await needs_task()
        return await route.handler(call, body)

    async def _write_many(self, call: Call, route: Route, items: str) -> Reply:
        """Serve a bulk, which costs a token an item; one that is malformed costs one."""
        try:
            call.body = await read_body(call, BULK_BODY_MAX_BYTES)
            body = self._decode(call, route)
        except Problem:
            await self._ask_gate(call)
            raise
        await self._ask_gate(call, len(getattr(body, items)))
        await needs_task()
        return await route.handler(call, body)

    def _decode(self, call: Call, route: Route) -> Any:
        assert route.body is not None, "it is a write"
        return decode(self._decoders[route.body], call.body)

    async def _ask_gate(self, call: Call, cost: int = 1, look_up: LookUp = LookUp.NOTHING, name: bytes = b"") -> None:
        """
        Take *cost* tokens for a request and look up what it needs, in one round trip.

        Raises:
            Problem: The tokens are not there (429), or can never be (400). No idempotency key is bound.
            QueueFullError: Too much waits already.
        """
        key = call.key
        decision = self._gate.used_up(key) if cost == 1 else None
        if decision is None:
            decision = await self._gate.enter(key, cost, look_up, name)
        call.limit_fields = limit_fields(key, decision.left)
        if decision.wait < 0:
            raise too_costly(key, cost, decision.waits_for)
        if decision.wait:
            raise UsedUpProblem(key.policies[decision.waits_for], decision.wait)
        call.decision = decision
        call.gated = time.monotonic()


def _refuse_target(methods: Methods | None) -> NoReturn:
    """
    Refuse a request for what there is not.

    Raises:
        Problem: There is no such path, or it has no such method.
    """
    if methods is None:
        raise Problem("not_found")
    allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
    raise Problem("method_not_allowed", headers=[("Allow", allowed)])
