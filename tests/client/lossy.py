"""A proxy before the service that loses, cuts, delays and replaces requests and answers, as a script says."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.support.listening import end

PASS = "pass"
# Seconds that running requests get when the proxy ends: it holds some on purpose.
END_SECONDS = 0.1
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"
# Header fields that are passed on.
_SENT = ("Authorization", "Idempotency-Key", "Content-Type", "If-Match", "Last-Event-ID")
_TOLD = ("Content-Type", "Retry-After", "Idempotent-Replayed")


class Lossy:
    """
    A proxy that can do this with a request:

    - `pass`
    - `lose request`, `lose answer`: closes the connection before or after the request is executed
    - `half`: passes the head and half of the body, and closes the connection
    - `slow`: executes it, and answers only after the caller has gone
    - `502`, `502 afterwards`: answers as a balancer does, before or after the request is executed
    - `redirect`
    - `cut N`: passes N bytes of the answer as they come, and closes the connection
    - `429`, `503`, `503 unknown`: answers as the service does

    Args:
        target: Address of the service.

        session: Sends requests to it.

    Attributes:
        posts: What to do with the next requests other than GETs; after them always `rest`.

        gets: The same for GETs.

        sent: Method, path and key of each request.
    """

    def __init__(self, target: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.posts: list[str] = []
        self.gets: list[str] = []
        self.rest = self.rest_of_gets = PASS
        self.sent: list[tuple[str, str, str]] = []
        self._target = target
        self._session = session

    def script(
        self, posts: Iterable[str] = (), rest: str = PASS, gets: Iterable[str] = (), rest_of_gets: str = PASS
    ) -> None:
        """Set what to do with the next requests, and forget those already sent."""
        self.posts, self.rest = list(posts), rest
        self.gets, self.rest_of_gets = list(gets), rest_of_gets
        self.sent.clear()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request as the script says."""
        self.sent.append((request.method, request.path_qs, request.headers.get("Idempotency-Key", "")))
        planned = self.gets if request.method == "GET" else self.posts
        rest = self.rest_of_gets if request.method == "GET" else self.rest
        fate = planned.pop(0) if planned else rest
        body = await request.read()
        match fate:
            case "lose request":
                return _lost(request)
            case "502":
                return web.Response(status=502, text=HTML, content_type="text/html")
            case "redirect":
                return web.Response(status=307, headers={"Location": f"{self._target}{request.path_qs}"})
            case "429":
                return _problem(429, "quota_exceeded", retry_after_ms=20)
            case "503":
                return _problem(503, "overloaded")
        fields = {name: request.headers[name] for name in _SENT if name in request.headers}
        async with self._session.request(
            request.method, self._target + request.path_qs, data=body or None, headers=fields
        ) as response:
            if fate.startswith("cut "):
                return await _cut(request, response, int(fate.removeprefix("cut ")))
            if response.content_type == "text/event-stream":
                return await _cut(request, response, 2**60)
            said = await response.read()
        told = {name: response.headers[name] for name in _TOLD if name in response.headers}
        match fate:
            case "lose answer":
                return _lost(request)
            case "half":
                return await _half(request, response.status, told, said)
            case "502 afterwards":
                return web.Response(status=502, text=HTML, content_type="text/html")
            case "503 unknown":
                return _problem(503, "unavailable", outcome="unknown")
            case "slow":
                # Ends with the connection, when the caller gives up.
                await asyncio.Event().wait()
        return web.Response(status=response.status, body=said, headers=told)


def _lost(request: web.BaseRequest) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _half(request: web.BaseRequest, status: int, headers: dict[str, str], body: bytes) -> web.StreamResponse:
    answer = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(body))})
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])
    _lost(request)
    return answer


async def _cut(request: web.BaseRequest, response: aiohttp.ClientResponse, size: int) -> web.StreamResponse:
    answer = web.StreamResponse(status=response.status, headers={"Content-Type": response.headers["Content-Type"]})
    await answer.prepare(request)
    async for piece in response.content.iter_any():
        await answer.write(piece[:size])
        size -= len(piece)
        if size <= 0:
            _lost(request)
            break
    return answer


def _problem(status: int, code: str, outcome: str = "not_applied", **more: object) -> web.Response:
    body = {"status": status, "code": code, "detail": code, "outcome": outcome, "retry": "same_key", **more}
    return web.json_response(body, status=status, content_type="application/problem+json")


@asynccontextmanager
async def lossy(target: str, session: aiohttp.ClientSession) -> AsyncIterator[Lossy]:
    """Put a proxy before a service."""
    proxy = Lossy(target, session)
    runner = web.ServerRunner(web.Server(proxy.answer, handler_cancellation=True), shutdown_timeout=END_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        await end(runner)
