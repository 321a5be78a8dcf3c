"""The HTTP server that answers operators."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import orjson
from aiohttp import web

from server.http.limits import KEEPALIVE_SECONDS

# Seconds that a running request gets to finish when the server ends.
SHUTDOWN_SECONDS: Final = 1.0
# Seconds between the end of listening and shutdown, in which a client that has just connected may send its request: a
# round trip and a little more.
LAST_SECONDS: Final = 0.25
# Set during these seconds, so that each answer ends its connection.
_ENDING: Final = web.AppKey("_ENDING", asyncio.Event)

# Content type of the text format of Prometheus.
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Header fields of every answer, including refusals and faults: browsers store nothing, load only our own files, and let
# no other site frame these pages.
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


async def answer_operators(
    routes: Mapping[str, Handler], listener: socket.socket, further: Iterable[web.AbstractRouteDef] = ()
) -> web.AppRunner:
    """
    Answer on *listener* until the returned runner is cleaned up.

    Args:
        routes: Handlers of GET, by path.

        further: More routes.
    """
    app = web.Application(middlewares=[_without_faults])
    app[_ENDING] = asyncio.Event()
    app.on_response_prepare.append(_add_headers)
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    app.add_routes(further)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


async def hand_over(runner: web.AppRunner) -> None:
    """Accept no more connections, because another process does, and answer those accepted before."""
    for site in tuple(runner.sites):
        await site.stop()
    assert runner.app is not None, "it has been set up"
    runner.app[_ENDING].set()
    await asyncio.sleep(LAST_SECONDS)


async def livez(_: web.Request) -> web.Response:
    """Answer 200: this process and its event loop run."""
    return json_response(200, {"status": "ok"})


def json_response(status: int, document: Mapping[str, object]) -> web.Response:
    """Return a JSON answer."""
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")


@web.middleware
async def _without_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log exceptions of handlers and answer 500: aiohttp's own log is turned off."""
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionError):
        raise
    except web.RequestPayloadError:
        return json_response(400, {"status": 400, "detail": "The body cannot be read."})
    except Exception:
        log.exception("a request of an operator failed")
        return json_response(500, {"status": 500, "detail": "An error in the server: its log has the details."})


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    if request.app[_ENDING].is_set():
        response.force_close()
