"""The command `background`: runs a background process in the foreground, for servers that have none."""

import asyncio
import contextlib
import logging
import os
import signal
import socket

import uvloop
from aiohttp import web

from server.process.background import Background, create_background
from server.process.commands.serve import end_by_signal, end_if_signalled
from server.process.listeners import open_listener
from server.process.operators import METRICS_TYPE, Handler, answer_operators, json_response, livez
from server.settings import Loaded, Settings
from server.telemetry.logs import configure_logs

log = logging.getLogger(__name__)


def run_background(loaded: Loaded) -> str | None:
    """
    Work until SIGTERM, SIGHUP or Ctrl-C.

    Returns:
        The reason why it cannot work, or None.

    Raises:
        SettingsError, OSError: As `create_background`.
    """
    settings = loaded.settings
    if settings.database_url is None or settings.redis_url is None:
        return (
            "background needs the PostgreSQL and Redis of the servers: set TALLYSTICK_DATABASE_URL and "
            "TALLYSTICK_REDIS_URL. With embedded servers, `tallystick serve` does this work itself"
        )
    # If no port is named, take any free one: a server on the same host would have the default port.
    port = 0 if loaded.sources["admin_port"] == "default" else settings.admin_port
    end_by_signal()
    with contextlib.ExitStack() as stack:
        try:
            admin = stack.enter_context(open_listener(settings.admin_host, port))
        except OSError as error:
            return (
                f"cannot listen on {settings.admin_host}:{port}: {error.strerror}; name another port for operators "
                "with --admin-port, 0 for any"
            )
        configure_logs(settings.log_level, process="background", pid=os.getpid())
        try:
            uvloop.run(_work(settings, admin))
        finally:
            end_by_signal()
    return None


async def _work(settings: Settings, admin: socket.socket) -> None:
    """Work until a signal; a second one ends the process at once."""
    ending = asyncio.Event()

    def end() -> None:
        if ending.is_set():
            # Running work can be abandoned safely: the next leader does it again, with effect only once.
            log.warning("stopping at once")
            logging.shutdown()
            os._exit(1)
        ending.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    end_if_signalled()
    async with create_background(settings) as background:
        runner = await answer_operators(_Operators(background).routes(), admin)
        log.info("listening for operators at %s:%d", *admin.getsockname()[:2])
        try:
            for failure in await background.readiness.failures():
                log.error("not ready: %s", failure)
            await ending.wait()
            log.info("stopping")
            background.readiness.draining = True
        finally:
            await runner.cleanup()


class _Operators:
    """
    Answers operators for a background process without a supervisor.

    Args:
        background: The parts of the process.
    """

    def __init__(self, background: Background) -> None:
        self._background = background

    def routes(self) -> dict[str, Handler]:
        """Return the handler of each path."""
        return {"/livez": livez, "/readyz": self._readyz, "/metrics": self._metrics}

    async def _readyz(self, _: web.Request) -> web.Response:
        """Answer 200 if this process is ready to lead or leads, otherwise 503 with the reasons."""
        failures = await self._background.readiness.failures()
        shown = {"pid": os.getpid(), "leads": self._background.leader.leads, "failures": failures}
        status = "not_ready" if failures else "ready"
        return json_response(503 if failures else 200, {"status": status, "background": shown})

    async def _metrics(self, _: web.Request) -> web.Response:
        """Answer with the metrics of this process, for Prometheus."""
        # Imported when first needed: the import is slow, as its docstring says.
        from server.process import scrape  # noqa: PLC0415

        body = scrape.metrics_alone(self._background.leader.samples())
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})
