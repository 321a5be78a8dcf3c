"""
A connection to a Redis or Valkey server, and the pipelines that it carries.

redis-py opens it: address, TLS, password, database. From then on, this module parses the replies from the received
bytes. redis-py itself uses a coroutine, a stream and a future for each reply, which costs more than all the rest of a
short pipeline.
"""

import asyncio
import itertools
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from server.store.deadline import ARRIVED_SECONDS

Command = tuple[bytes | str | int, ...]

# One mark for each pipeline, so that its replies are never taken for those of another one.
_marks: Final = itertools.count(1)


class ConfusedError(RedisError):
    """The replies do not belong to these commands."""


class Link(asyncio.Protocol):
    """
    A connection to a server, open or still to be opened.

    Args:
        connection: A connection of redis-py, not connected yet.

    Attributes:
        epoch: Epoch of the server when the connection was opened; None until the connection may be used.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.epoch: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Transport of the last connect; redis-py forgets it when the connection fails.
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=connection._parser.parse_error)
        # Replies to the pipeline in flight that have arrived, how many are expected, and the future of its caller.
        self._replies: list[Any] = []
        self._expected = 0
        self._waiter: asyncio.Future[list[Any]] | None = None
        # Whether the server has closed the connection, or has sent something unexpected.
        self._spent = False

    @property
    def usable(self) -> bool:
        """Whether the connection is not known to be broken; also true before it is opened."""
        return not self._spent

    async def connect(self) -> None:
        """
        Connect, within redis-py's connect timeout.

        Raises:
            RedisError, OSError: It cannot be connected.
        """
        await self.connection.connect()  # type: ignore[no-untyped-call]  # of redis-py
        writer = self.connection._writer
        assert writer is not None, "it is connected"
        self._loop = asyncio.get_running_loop()
        self._transport = writer.transport
        self._transport.set_protocol(self)

    async def exchange(self, commands: list[Command], deadline: float) -> list[Any]:
        """
        Send the commands and a last one with a mark, and return the replies, errors of single commands among them.

        Args:
            deadline: In the loop's time. Replies that have arrived by then are still read after it.

        Raises:
            ConfusedError: The last reply is not the mark: there were more or fewer replies than commands.
            RedisError, OSError, TimeoutError: The server did not answer, or not as it must.
        """
        assert self._loop is not None, "it is connected"
        assert self._transport is not None, "it is connected"
        if self._spent:
            raise ConnectionResetError
        mark = b"%x" % next(_marks)
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # of any length
        packed.append(hiredis.pack_command(("PING", mark)))  # type: ignore[arg-type]  # as above
        self._replies, self._expected = [], len(packed)
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiter = waiter
        timer = self._loop.call_at(deadline, self._due, waiter)
        self._transport.write(b"".join(packed))
        try:
            replies = await waiter
        finally:
            timer.cancel()
            self._waiter, self._replies, self._expected = None, [], 0
        if replies.pop() != mark:
            raise ConfusedError
        for reply in replies:
            # The server cannot be used now: it loads its data, or has lost its primary.
            if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                raise reply
        return replies

    async def close(self) -> None:
        """Close the connection, after all its replies have been read."""
        await self.connection.disconnect(nowait=True)

    async def abort(self) -> None:
        """Close the connection at once: an orderly close would wait for a server that hangs to read what was sent."""
        if self._transport is not None:
            self._transport.abort()
        await self.connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """Parse the replies that have arrived."""
        self._reader.feed(data)
        try:
            while len(self._replies) < self._expected:
                reply = self._reader.gets()
                if reply is False:
                    return
                self._replies.append(reply)
        except RedisError as error:
            self._fail(error)
            return
        waiter = self._waiter
        if waiter is None or waiter.done() or self._reader.has_data():
            # Unexpected data. A caller that waits still gets its own replies.
            self._spent = True
        if waiter is not None and not waiter.done():
            waiter.set_result(self._replies)

    def eof_received(self) -> None:
        """Note that the server has closed the connection; the transport closes this end."""
        self._fail(ConnectionResetError())

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the pipeline in flight."""
        self._fail(error or ConnectionResetError())

    def _fail(self, error: Exception) -> None:
        self._spent = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _due(self, waiter: "asyncio.Future[list[Any]]") -> None:
        assert self._loop is not None, "it is connected"
        self._loop.call_later(ARRIVED_SECONDS, _give_up, waiter)


def _give_up(waiter: "asyncio.Future[list[Any]]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
