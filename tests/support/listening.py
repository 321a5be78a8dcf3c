"""Ends servers of tests while clients may still be connecting."""

import asyncio
from collections.abc import Iterable

from aiohttp import web


async def stop_accepting(servers: Iterable[asyncio.AbstractServer]) -> None:
    """
    Stop accepting connections, and wait until every accepted connection has its transport.

    If a server of asyncio is closed between the two, the connection's socket is left to the garbage collector (Python
    before 3.12.4), and the warning fails a later test.
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        # uvloop has its own servers, which do not leave sockets behind.
        if isinstance(server, asyncio.Server):
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
    # Tasks that are already scheduled make the transports; they run before this one goes on.
    await asyncio.sleep(0)


async def end(runner: web.BaseRunner) -> None:
    """Stop the servers of a runner of aiohttp."""
    servers = [site._server for site in runner.sites]
    await stop_accepting(server for server in servers if server is not None)
    await runner.cleanup()
