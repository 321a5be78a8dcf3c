"""Messages between a supervisor and its children."""

import asyncio
import socket

from server.process.channel import Channel, Orders, Stop, ToChild, ToSupervisor
from tests.support.waiting import WAIT_SECONDS


async def test_what_came_with_the_first_message_is_handled() -> None:
    """A stop that was sent together with a child's orders is received when the child begins to listen."""
    ours, theirs = socket.socketpair()
    supervisor: Channel[ToSupervisor] = Channel(ours, ToSupervisor)
    child: Channel[ToChild] = Channel(theirs, ToChild)
    try:
        assert supervisor.send(Orders({}, 1))
        assert supervisor.send(Stop())
        assert child.wait() == Orders({}, 1)
        heard: asyncio.Queue[ToChild] = asyncio.Queue()
        child.listen(heard.put_nowait, lambda: None)
        async with asyncio.timeout(WAIT_SECONDS):
            assert await heard.get() == Stop()
    finally:
        child.close()
        supervisor.close()
