"""A path to a service on which all answers are lost."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.listening import stop_accepting


@asynccontextmanager
async def losing_answers(url: str) -> AsyncIterator[str]:
    """Forward requests to a service: each is executed, and no answer arrives."""
    target = urlsplit(url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            back, forth = await asyncio.open_connection(target.hostname, target.port)
            forth.write(head + body)
            # Once the answer begins, the service has executed the request.
            await back.readuntil(b"\r\n")
            forth.close()
            await forth.wait_closed()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        await stop_accepting([server])
        server.close()
        await server.wait_closed()
