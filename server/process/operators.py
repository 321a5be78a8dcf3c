"""What answers operators over HTTP."""

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import orjson
from aiohttp import web

from server.http.limits import KEEPALIVE_SECONDS

# Seconds that an answer under way gets when the server ends.
SHUTDOWN_SECONDS: Final = 1.0

# The text format of Prometheus.
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NO_STORE: Final = {"Cache-Control": "no-store"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answer_operators(
    routes: Mapping[str, Handler], listener: socket.socket, further: Iterable[web.AbstractRouteDef] = ()
) -> web.AppRunner:
    """
    Answer on *listener* until the runner returned is cleaned up.

    Args:
        routes: Handlers of GET, by path.

        further: Other routes.
    """
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    app.add_routes(further)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


async def livez(_: web.Request) -> web.Response:
    """Answer that the loop runs."""
    return json_response(200, {"status": "ok"})


def json_response(status: int, document: Mapping[str, object]) -> web.Response:
    """Return an answer of health."""
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json", headers=NO_STORE)
