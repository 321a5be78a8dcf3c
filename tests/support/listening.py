"""Servers of tests that end while somebody connects to them."""

import asyncio
from collections.abc import Iterable

from aiohttp import web


async def stop_accepting(servers: Iterable[asyncio.AbstractServer]) -> None:
    """
    Return when the servers accept no more, and no connection that they have accepted is without its transport.

    A server of asyncio that is closed in between leaves the connection's socket to the collector of garbage (Python
    before 3.12.4), which a later test is blamed for.
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        # uvloop has servers of its own, which leave nothing.
        if isinstance(server, asyncio.Server):
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
    # The transports are made by tasks that began before this one goes on.
    await asyncio.sleep(0)


async def end(runner: web.BaseRunner) -> None:
    """Stop what a runner of aiohttp serves."""
    servers = [site._server for site in runner.sites]
    await stop_accepting(server for server in servers if server is not None)
    await runner.cleanup()
