"""
A worker: one process with one event loop that serves requests from an inherited socket until the supervisor ends it.

Run as `python -m server.process.worker CHANNEL SUPERVISOR NUMBER LISTENER`. CHANNEL and LISTENER are inherited
descriptors, SUPERVISOR is the id of the parent process, and NUMBER is the worker's own number.
"""

import asyncio
import gc
import logging
import socket
import sys
from typing import Final

from aiohttp import web

from server.app import App, create_app
from server.http.limits import BACKLOG
from server.process import attached
from server.process.channel import Ask, Channel, Orders, Retire, Serving, Stop, ToChild
from server.process.error_messages import NotReadyError
from server.process.reporting import report
from server.settings import Settings
from server.store.background import stop

# Seconds after which the event loop has counted every connection that the kernel had accepted.
ACCEPT_SECONDS: Final = 0.25
# Seconds that idle connections stay open after the listener is closed; a request that comes in this time is answered
# with `Connection: close`. A balancer that checks once a second needs almost as long to notice that a server stops, and
# until then it sends requests on connections that it has kept. A swapped worker can wait longer: its successor serves.
STOP_IDLE_SECONDS: Final = 2.0
RETIRE_IDLE_SECONDS: Final = 5.0
IDLE_POLL_SECONDS: Final = 0.05
# Seconds that running requests get to finish: a little more than the deadline of a posting.
SHUTDOWN_SECONDS: Final = 6.0
# Thresholds of the garbage collector: new objects before it scans the youngest generation, and scans of each generation
# before it scans the next. Reference counts free the objects of requests, so it finds little; with Python's default of
# 700 it took a fifth of a busy worker's time.
COLLECT_AFTER: Final = (50_000, 20, 100)

# Named explicitly: this module runs as a program, so its __name__ is "__main__".
log = logging.getLogger("server.process.worker")


def main() -> int:
    """Serve with the settings that the supervisor sends, and return the exit code."""
    channel, supervisor, number, listener = map(int, sys.argv[1:])

    async def serve(orders: Orders, settings: Settings, channel: Channel[ToChild]) -> None:
        await Worker(orders, settings, socket.socket(fileno=listener), channel).serve()

    return attached.run(channel, supervisor, serve, worker=number)


class Worker:
    """
    Serves requests on a socket that the supervisor keeps open.

    Args:
        orders: The supervisor's first message.

        settings: Made from the orders.

        listener: A bound and listening socket.

        channel: The channel to the supervisor.
    """

    def __init__(self, orders: Orders, settings: Settings, listener: socket.socket, channel: Channel[ToChild]) -> None:
        self._orders = orders
        self._settings = settings
        self._listener = listener
        self._channel = channel
        self._app: App | None = None
        self._ending = asyncio.Event()
        # Set when the whole server stops, so that no other worker will accept from the socket.
        self._stop = asyncio.Event()
        self._answers: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """
        Serve until the supervisor ends it, then finish the running requests.

        Raises:
            NotReadyError: This worker had to be ready and is not.
            SettingsError: As `create_app`.
        """
        self._channel.listen(self._handle, attached.leave)
        tasks = [asyncio.create_task(attached.beat(self._channel))]
        try:
            async with create_app(self._settings, self._orders.workers) as app:
                self._app = app
                runner = web.ServerRunner(app.server, shutdown_timeout=SHUTDOWN_SECONDS)
                await runner.setup()
                if self._orders.must_be_ready and (failures := await app.readiness.failures()):
                    raise NotReadyError("; ".join(failures))
                site = web.SockSite(runner, self._listener, backlog=BACKLOG)
                await site.start()
                failures = await app.readiness.failures()
                for failure in failures:
                    log.error("not ready: %s", failure)
                # The objects made at start-up live until the end, so the garbage collector need not scan them again.
                gc.collect()
                gc.freeze()
                gc.set_threshold(*COLLECT_AFTER)
                self._channel.send(Serving(tuple(failures)))
                tasks.append(asyncio.create_task(report(app, self._channel)))
                await self._ending.wait()
                await self._drain(app, runner, site)
        finally:
            await stop(*tasks)

    def _handle(self, message: ToChild) -> None:
        match message:
            case Ask():
                readiness = None if self._app is None else self._app.readiness
                task = asyncio.create_task(attached.answer(self._channel, readiness))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
            case Stop():
                self._stop.set()
                self._ending.set()
            case Retire():
                self._ending.set()
            case Orders():
                log.error("orders came twice")

    async def _drain(self, app: App, runner: web.ServerRunner, site: web.SockSite) -> None:
        """Stop without losing a request: answer `Connection: close`, close the listener, then let requests finish."""
        app.server.open_connections.draining = True
        app.readings.heads.drain()
        if not self._stop.is_set():
            # The supervisor keeps the socket open, so the successor gets the connections that wait in its queue.
            log.info("retiring")
            await site.stop()
            await self._let_clients_go(app, RETIRE_IDLE_SECONDS)
        else:
            log.info("stopping")
            app.readiness.draining = True
            await accept_the_rest(app, self._listener)
            await site.stop()
        if self._stop.is_set():
            app.readiness.draining = True
            await self._let_clients_go(app, STOP_IDLE_SECONDS)
        await runner.cleanup()

    async def _let_clients_go(self, app: App, seconds: float) -> None:
        """Wait until no client is connected, so many seconds have passed, or a worker that retires has to stop."""
        stopping = self._stop.is_set()
        await asyncio.sleep(ACCEPT_SECONDS)
        for _ in range(round(seconds / IDLE_POLL_SECONDS)):
            if self._stop.is_set() != stopping or not app.server.open_connections.count:
                return
            await asyncio.sleep(IDLE_POLL_SECONDS)


async def accept_the_rest(app: App, listener: socket.socket) -> None:
    """
    Accept the connections that wait in the kernel's queue.

    Closing the listener would reset them, and a caller that has already sent a request could not know whether it was
    executed. Once the queue is empty, this returns without yielding to the event loop.
    """
    # From here on a new connection finds the queue full; when the client tries again, it finds no listener.
    listener.listen(0)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(app.server, connection)


if __name__ == "__main__":
    sys.exit(main())
