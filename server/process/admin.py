"""The admin port: health and metrics of the whole server, for operators."""

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
from aiohttp import web

from server.http.limits import KEEPALIVE_SECONDS
from server.process.children import Report
from server.process.supervisor import Supervisor

# Seconds that an answer under way gets when the server ends.
SHUTDOWN_SECONDS: Final = 1.0

# The text format of Prometheus.
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NO_STORE: Final = {"Cache-Control": "no-store"}

Handler = Callable[[web.Request], Awaitable[web.Response]]


async def answer_operators(routes: Mapping[str, Handler], listener: socket.socket) -> web.AppRunner:
    """Answer *routes* on *listener* until the runner returned is cleaned up."""
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


class Admin:
    """
    The admin server.

    Args:
        supervisor: Of the server.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def routes(self) -> dict[str, Handler]:
        """Return the handler of each path."""
        return {
            "/livez": livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/hot-accounts": self._hot_accounts,
        }

    async def _readyz(self, _: web.Request) -> web.Response:
        """Answer 200 when requests can be served, by at least one worker, and else why not."""
        reports = await self._supervisor.reports()
        of_workers = [report for report in reports if report.program.vital]
        shown: dict[str, object] = {"workers": [{"worker": int(r.program.label), **_shown(r)} for r in of_workers]}
        # At most one: how it is does not decide whether requests can be served.
        shown.update((report.program.label, _shown(report)) for report in reports if not report.program.vital)
        if self._supervisor.stopping:
            return json_response(503, {"status": "stopping", **shown})
        is_ready = any(report.state == "serving" and not report.failures for report in of_workers)
        return json_response(200 if is_ready else 503, {"status": "ready" if is_ready else "not_ready", **shown})

    async def _metrics(self, _: web.Request) -> web.Response:
        """Answer with the numbers of all workers, for Prometheus."""
        # Loaded when it is asked for: see there.
        from server.process import scrape  # noqa: PLC0415

        body = scrape.metrics(self._supervisor)
        return web.Response(body=body, headers={**NO_STORE, "Content-Type": METRICS_TYPE})

    async def _hot_accounts(self, _: web.Request) -> web.Response:
        """Answer with the accounts with most transfers in the last few seconds."""
        from server.process import scrape  # noqa: PLC0415

        body = scrape.hot_accounts(self._supervisor)
        return web.Response(body=body, content_type="application/json", headers=NO_STORE)


async def livez(_: web.Request) -> web.Response:
    """Answer that the loop runs."""
    return json_response(200, {"status": "ok"})


def json_response(status: int, document: dict[str, object]) -> web.Response:
    """Return an answer of health."""
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json", headers=NO_STORE)


def _shown(report: Report) -> dict[str, object]:
    return {"pid": report.pid, "state": report.state, "failures": report.failures}
