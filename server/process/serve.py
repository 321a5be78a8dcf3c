"""Serving: one process, one loop, until it is told to stop."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable

from aiohttp import web

from server.app import App, create_app
from server.http.limits import BACKLOG
from server.settings import Settings

# Seconds between the end of listening and the closing of idle connections: what the kernel had accepted is served.
STOP_LISTENING_SECONDS = 0.25
# Seconds that running requests get to finish: a little more than the deadline of a posting.
SHUTDOWN_SECONDS = 6.0

# Objects made before the collector looks at the young ones, and how often it looks at the older ones. Requests die by
# reference count, so it finds little; with Python's default of 700 it took a fifth of a busy worker's time.
COLLECT_AFTER = (50_000, 20, 100)

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """
    Return a listening socket.

    Raises:
        OSError: The address is taken or is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def serve(settings: Settings, listener: socket.socket, started: Callable[[], None]) -> None:
    """
    Serve on *listener* until SIGTERM or SIGINT, then answer what runs and stop; a second signal stops at once.

    Args:
        started: Called when requests are taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            # Neither an exception nor a cancellation ends what waits for Postgres; the keys make leaving it safe.
            log.warning("stopping at once")
            logging.shutdown()
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with create_app(settings) as app:
        runner = web.ServerRunner(app.server, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        site = web.SockSite(runner, listener, backlog=BACKLOG)
        await site.start()
        for failure in await app.readiness.failures():
            log.error("not ready: %s", failure)
        # What start-up made lives as long as the process: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        started()
        await stop.wait()
        await _drain(app, runner, site, listener)


async def _drain(app: App, runner: web.ServerRunner, site: web.SockSite, listener: socket.socket) -> None:
    """Stop in the order that loses no request: readiness off, listener closed, `Connection: close`, then the rest."""
    log.info("stopping")
    app.readiness.draining = True
    app.server.draining = True
    await _accept_the_rest(app, listener)
    await site.stop()
    await asyncio.sleep(STOP_LISTENING_SECONDS)
    await runner.cleanup()


async def _accept_the_rest(app: App, listener: socket.socket) -> None:
    """
    Take the connections that the kernel has made and nobody has accepted: closing the listener resets them, and a
    caller who has sent a request by then cannot know what became of it.

    Returns without giving up control after it has seen the queue empty.
    """
    # From here on a new connection finds the queue full and, when it tries again, nobody who listens.
    listener.listen(0)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(app.server, connection)
