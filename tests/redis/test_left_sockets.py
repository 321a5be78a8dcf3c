"""Every socket is closed with its user, at whatever moment the user ends."""

import asyncio
import gc
from pathlib import Path

import pytest

from server.store.redis import RedisAwayError, RedisServer
from tests.support.redis_proxy import redis_proxied
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

# Turns of the event loop in which either side makes a connection.
STEPS = 12
# More than the buffers of a connection hold.
BIG_BYTES = 32_000_000


async def test_a_server_that_hangs_keeps_no_socket(valkey: OwnValkey) -> None:
    """A failed connection is closed at once, even if the server behind it never read what was sent."""
    client = RedisServer(valkey.tcp_url, None, 0.2)
    try:
        await client.submit(b"", ("PING",))
        writer = client._connections._idle[0].connection._writer
        assert writer is not None
        link = writer.get_extra_info("socket")
        with valkey.frozen():
            with pytest.raises(RedisAwayError):
                await client.submit(b"", ("SET", "big", b"x" * BIG_BYTES))
            await until(lambda: bool(link.fileno() == -1))
    finally:
        await client.close()


async def test_clients_that_end_while_they_connect(valkey: OwnValkey) -> None:
    """A client that is closed at any turn of the loop while it connects and probes leaves nothing open."""
    for step in range(4 * STEPS):
        client = RedisServer(valkey.tcp_url)
        asked = client.submit(b"", ("PING",))
        probe = asyncio.create_task(client._ask())
        for _ in range(step):
            await asyncio.sleep(0)
        probe.cancel()
        await asyncio.gather(probe, asked, return_exceptions=True)
        await client.close()
    await asyncio.sleep(0)
    # An unclosed socket is found by this collection, so this test fails and not a later one.
    gc.collect()


async def test_proxies_that_end_while_somebody_connects(folder: Path) -> None:
    """The proxies of tests leave nothing open, at whatever moment a client connects."""

    async def connect(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    for step in range(STEPS):
        async with redis_proxied(folder / "nobody.sock") as (_, port):
            connecting = asyncio.create_task(connect(port))
            for _ in range(step):
                await asyncio.sleep(0)
            connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    await asyncio.sleep(0)
    gc.collect()
