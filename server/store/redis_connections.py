"""The connections of a worker to one Redis or Valkey, and what they tell of the server behind them."""

import asyncio
import itertools
import logging
import math
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from server.store.keyspace import SNAPSHOT_MS

Command = tuple[bytes | str | int, ...]

# Seconds that a server must have been up before snapshots are read from it: as long as one lives. By then every worker
# has noticed that it was away, and what it brought back from a disk or from another server has expired.
QUARANTINE_SECONDS = SNAPSHOT_MS / 1_000
# Seconds by which a server may seem older than it is: it counts whole seconds of a clock, at both ends.
UPTIME_ERROR_SECONDS = 1

# Told apart by these, the replies of one pipeline are never taken for those of another.
_marks = itertools.count(1)

log = logging.getLogger(__name__)


class ConfusedError(RedisError):
    """The replies are not the ones of these commands."""


class Link:
    """
    A connection, and in which life of the server it was made.

    Attributes:
        life: None until it is connected.

        transport: Of the connection made last, which redis-py lets go of by itself when it fails.
    """

    __slots__ = ("connection", "life", "transport")

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.life: int | None = None
        self.transport: asyncio.WriteTransport | None = None


class Connections:
    """
    The connections to one server.

    Whether its snapshots may be read is a matter of its *lives*: a server that was started, or another one at the same
    address, is met by the first connection made to it, which asks for its name before anything else.

    Args:
        name: Of the server, for the log.

        url: redis://, rediss:// or unix://.

        place: Host and port, instead of those of the address.

        connect_seconds: In which a connection must be made.

        newcomer: The server has taken the place of another one, so it counts as just started.

    Attributes:
        life: Counts the servers met, less one. What was decided in one life must not be done in another.

    Raises:
        ValueError, TypeError: The address has an option that there is not.
    """

    def __init__(
        self, name: str, url: str, place: tuple[str, int] | None, connect_seconds: float, *, newcomer: bool
    ) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        if place is not None:
            options["host"], options["port"] = place
        self.life = 0
        self._name = name
        self._newcomer = newcomer
        self._connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            # One deadline a pipeline is ours; a time-out a reply would cost as much as the rest of the path.
            "socket_timeout": None,
            "socket_connect_timeout": connect_seconds,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        # Made at once, though not connected: an option that there is not is found before anybody waits.
        self._idle = [Link(self._connection_class(**self._options))]
        self._run_id = b""
        self._grown_up = False
        # When it will have been up for long enough, in the loop's time; None until it was met.
        self._young_until: float | None = None

    @property
    def trusted(self) -> bool:
        """Whether snapshots may be read from the server and stored there."""
        if not self._grown_up and self._young_until is not None:
            self._grown_up = asyncio.get_running_loop().time() >= self._young_until
        return self._grown_up

    async def take(self) -> Link:
        """Return one on which nothing is under way; it may have to be opened first."""
        while self._idle:
            link = self._idle.pop()
            # The server closes what was idle for long, and says things that nobody asked for: nothing has been sent
            # on this one yet, so another one does.
            if not link.connection.is_connected or not await link.connection.can_read():
                return link
            await link.connection.disconnect(nowait=True)
        return Link(self._connection_class(**self._options))

    async def open(self, link: Link) -> None:
        """
        Connect, unless it is connected, and find out who answers.

        Raises:
            RedisError, OSError, ValueError: It cannot be connected, or is of no use.
        """
        if link.connection.is_connected and link.life is not None:
            return
        await link.connection.connect()  # type: ignore[no-untyped-call]  # of redis-py
        writer = link.connection._writer
        link.transport = None if writer is None else writer.transport
        (reply,) = await roundtrip(link.connection, [("INFO", "server")])
        await self._meet(*_identity(reply))
        link.life = self.life

    async def give_back(self, link: Link) -> None:
        """Keep one on which nothing is under way for the next who takes one."""
        if link.life == self.life:
            self._idle.append(link)
        else:
            await link.connection.disconnect(nowait=True)

    async def drop(self, link: Link) -> None:
        """Close one that has failed, and all that are idle: what ended this one has most likely ended them."""
        if link.transport is not None:
            # Closed in order, it would stay for as long as a server that hangs does not take what was sent.
            link.transport.abort()
        await link.connection.disconnect(nowait=True)
        await self.close()

    async def close(self) -> None:
        """Close all that are idle."""
        idle, self._idle = self._idle, []
        for link in idle:
            await link.connection.disconnect(nowait=True)

    async def _meet(self, run_id: bytes, uptime: int) -> None:
        """Note who answers a new connection."""
        first = self._young_until is None
        if not first and run_id == self._run_id:
            return
        # The uptime of one that has taken another's place says nothing: a replica has long been up.
        age = max(uptime - UPTIME_ERROR_SECONDS, 0) if first and not self._newcomer else 0
        self._run_id = run_id
        self._grown_up = False
        self._young_until = asyncio.get_running_loop().time() + QUARANTINE_SECONDS - age
        if not run_id:
            # A restart of it could not be noticed.
            self._young_until = math.inf
            log.warning("%s does not say who it is (INFO server): no accounts are read from it", self._name)
        if not first:
            self.life += 1
            log.warning("%s was started anew: no accounts are read from it for a while", self._name)
            await self.close()


def _identity(reply: object) -> tuple[bytes, int]:
    """
    Return the name of a server's run, empty where it is not told, and the seconds since its start.

    Raises:
        ResponseError: It is of no use now.
    """
    if isinstance(reply, ResponseError):
        # By its rules or by its name the command is not there. Whatever else it may say is about the server.
        if isinstance(reply, NoPermissionError) or "unknown command" in str(reply).lower():
            return b"", 0
        raise reply
    if not isinstance(reply, bytes):
        raise ConfusedError
    facts = dict(line.split(b":", 1) for line in reply.splitlines() if b":" in line)
    uptime = facts.get(b"uptime_in_seconds", b"")
    return facts.get(b"run_id", b""), int(uptime) if uptime.isdigit() else 0


async def roundtrip(connection: AbstractConnection, commands: list[Command]) -> list[Any]:
    """
    Send the commands and a mark behind them, and return their replies, errors of single commands among them.

    Raises:
        ConfusedError: The reply in the place of the mark's is another: there were more or fewer than commands.
    """
    mark = b"%x" % next(_marks)
    packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # of any length
    packed.append(hiredis.pack_command(("PING", mark)))  # type: ignore[arg-type]  # as above
    await connection.send_packed_command([b"".join(packed)], check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            replies.append(error)
    if await connection.read_response(disable_decoding=True) != mark:
        raise ConfusedError
    return replies
