"""Look-ups and actions of operators: the API's own handlers answer them, on separate PostgreSQL connections."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web

from server.app import App, create_app
from server.gate.keys import ApiKey, Role
from server.gate.limits import Limit
from server.http import render
from server.http.amounts import as_strings
from server.http.call import Call
from server.http.handlers.transfers import transfer_id
from server.http.limits import BODY_MAX_BYTES
from server.http.problems import problem_of
from server.http.reply import Reply, StreamedReply
from server.http.router import Router
from server.http.routes import ROUTES
from server.http.wire.head import Head
from server.process.console.guard import refusal
from server.process.postgres_connections import CONSOLE_POSTING, CONSOLE_READING
from server.settings import Settings
from server.store.coalescer import QueueFullError
from server.store.errors import StoreError

# Most requests that run at once, and that wait; a page sends a few at once.
RUNNING_MAX: Final = 4
WAITING_MAX: Final = 32
# Rate limit of operators: more requests than a person makes.
LIMIT: Final = Limit(100, 1, 200)
# The operators' name as an API key, in the rate limiter and in the log.
OPERATOR: Final = "operator"
# Most children of a transfer that are shown; a hold that is captured in small parts may have many.
CHILDREN_MAX: Final = 100
# Most ledgers to choose from.
LEDGERS_MAX: Final = 1_000
# The largest number of a ledger, which is a bigint.
LEDGER_MAX: Final = 2**63 - 1
# Routes that are not for a page, because they answer in pieces or need their own connections.
NOT_SHOWN: Final = frozenset({"/v1/accounts/{id}/statement", "/v1/events/stream", "/v1/balances"})
# What an operator may change; the console moves no money.
CHANGED: Final = ("/v1/api-keys", "/v1/webhook-endpoints")

log = logging.getLogger(__name__)


class Ledger(msgspec.Struct):
    """A ledger, and the position of its newest event."""

    id: int
    name: str
    events: int


class Operator:
    """
    Answers an operator's look-ups and actions; makes the service when it is first needed.

    Args:
        settings: The settings of the server.
    """

    def __init__(self, settings: Settings) -> None:
        pools = {"posting_connections": CONSOLE_POSTING, "reading_connections": CONSOLE_READING}
        self._settings = msgspec.structs.replace(settings, **pools)
        self._router = Router(ROUTES)
        self._stack = AsyncExitStack()
        self._making = asyncio.Lock()
        self._made: App | None = None
        self._places = asyncio.Semaphore(RUNNING_MAX)
        self._waiting = 0

    async def close(self) -> None:
        """Close the service, if it was made."""
        await self._stack.aclose()

    async def list_ledgers(self) -> web.Response:
        """Answer with the ledgers."""
        try:
            async with self._app() as app:
                rows = (await app.database.read("ledger_list"))[:LEDGERS_MAX]
                heads = await app.feed.heads([row["id"] for row in rows])
        except (StoreError, QueueFullError) as error:
            return _failed(error)
        ledgers = [Ledger(row["id"], row["name"], heads.get(row["id"], 0)) for row in rows]
        return _json(200, msgspec.json.encode(ledgers))

    async def list_children(self, ledger: int, name: str) -> web.Response:
        """Answer with the children of a transfer."""
        transfer = transfer_id(name)
        if transfer is None:
            return refusal(404, "No transfer has such an id.")
        try:
            async with self._app() as app:
                if not await _knows(app, ledger):
                    return _no_ledger()
                children = await app.history.children(ledger, transfer, CHILDREN_MAX)
        except (StoreError, QueueFullError) as error:
            return _failed(error)
        return _json(200, as_strings(b"[%b]" % b",".join(render.transfer(child) for child in children)))

    async def serve(self, request: web.Request) -> web.Response:
        """Answer a request to the API as the API does."""
        ledger = int(request.match_info["ledger"])
        path, _, query = request.raw_path.partition(f"/console/ledgers/{ledger}")[2].partition("?")
        if not self._may(request.method, path):
            return refusal(404, "The console has no such request.")
        body = bytearray()
        while len(body) <= BODY_MAX_BYTES and (piece := await request.content.readany()):
            body += piece
        try:
            async with self._app() as app:
                if not await _knows(app, ledger):
                    return _no_ledger()
                reply = await self._respond(app, request, (path, query), bytes(body), ledger)
        except (StoreError, QueueFullError) as error:
            return _failed(error)
        if request.method != "GET":
            log.info("an operator sent %s %s of ledger %d: %d", request.method, path, ledger, reply.status)
        return _answer(reply)

    async def _respond(
        self, app: App, request: web.Request, target: tuple[str, str], body: bytes, ledger: int
    ) -> Reply:
        call = Call(
            (request.method, *target),
            Head(request._message),
            body,
            request.protocol,
            admission=app.server.pipeline.admission,
            arrived=time.monotonic(),
        )
        return await app.server.pipeline.operate(call, _key(ledger))

    def _may(self, method: str, path: str) -> bool:
        match = self._router.find(path)
        route = None if match is None else match[0].get(method)
        if route is None or route.role is None or route.path in NOT_SHOWN:
            return False
        return method == "GET" or route.path.startswith(CHANGED)

    @asynccontextmanager
    async def _app(self) -> AsyncIterator[App]:
        """
        Yield the service to at most RUNNING_MAX requests at once.

        Raises:
            QueueFullError: Too many requests wait for it.
        """
        if self._waiting >= WAITING_MAX:
            raise QueueFullError
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            async with self._making:
                if self._made is None:
                    self._made = await self._stack.enter_async_context(create_app(self._settings))
            yield self._made
        finally:
            self._places.release()


def _key(ledger_id: int) -> ApiKey:
    """Return the API key of an operator's requests: it has all rights in one ledger."""
    return ApiKey(ledger_id, OPERATOR, Role.ADMIN, limit=LIMIT.counted, concurrency=RUNNING_MAX, ledger_limit=None)


def _answer(reply: Reply) -> web.Response:
    assert not isinstance(reply, StreamedReply), "those are not asked for"
    response = _json(reply.status, reply.body)
    response.content_type = reply.content_type.decode()
    return response


async def _knows(app: App, ledger: int) -> bool:
    return ledger <= LEDGER_MAX and bool(await app.database.read("ledger_name", ledger))


def _no_ledger() -> web.Response:
    return refusal(404, "No ledger has such a number.")


def _failed(error: Exception) -> web.Response:
    problem = problem_of(error)
    return refusal(problem.kind.status, problem.kind.text)


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
