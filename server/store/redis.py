"""Redis or Valkey: whatever waits leaves as one pipeline, answers within a deadline, and is never sent twice."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, ResponseError, TryAgainError
from redis.maint_notifications import MaintNotificationsConfig

from server.store.breaker import Breaker
from server.store.coalescer import Coalescer, QueueFullError
from server.store.keyspace import PROBE, PROBE_MS, REPLAY_SECONDS

# Seconds in which a whole flush must be answered, connecting included. A healthy one takes a millisecond; a caller
# that waits longer is better served without Redis.
FLUSH_SECONDS = 0.05
# Seconds in which a probe may connect, name resolution and TLS included. A flush that has to connect gets no more than
# its own deadline; where that is too short, the probe leaves its connection to the flushes.
CONNECT_SECONDS = 0.25
# Connections of a worker to one server: one flushes while the other's replies are read.
CONNECTIONS_MAX = 2
# Commands a flush: about 10 ms of Redis's time.
FLUSH_COMMANDS_MAX = 1_000
# Commands that may wait: 50 ms of work.
QUEUE_MAX = 5_000

Command = tuple[bytes | str | int, ...]

# What a server says of one command or of its key; every other error is one of the server.
_OF_ONE_COMMAND = ("WRONGTYPE", "user_script")

# Told apart by these, the replies of one flush are never taken for those of another.
_marks = itertools.count(1)

log = logging.getLogger(__name__)


class RedisAwayError(Exception):
    """Redis did not answer, or is known not to answer: nothing is known of the command."""


class _ConfusedError(RedisError):
    """The replies are not the ones of these commands."""


class Script(NamedTuple):
    """A Lua script: its text and the name Redis knows it by."""

    text: str
    sha: str

    def call(self, keys: Sequence[bytes], *arguments: bytes | str | int) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


@cache
def script(name: str) -> Script:
    """Return the script `lua/<name>.lua`."""
    text = (Path(__file__).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, sha1(text.encode()).hexdigest())  # noqa: S324 -- the name Redis gives it, no secret


@cache
def _texts() -> dict[str, str]:
    return {found.sha: found.text for found in map(script, ("gate", "settle", "fill", "read"))}


class Redis(Protocol):
    """One server or a cluster of them."""

    # Whether one command may name keys of any kind together.
    colocated: bool

    @property
    def away(self) -> bool:
        """Whether it is known not to answer."""

    def submit(self, key: bytes, command: Command) -> Awaitable[Any]:
        """Send a command about *key*; the reply comes from what is returned, or RedisAwayError does."""

    async def settle(self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes]) -> None:
        """Remove snapshots older than *versions*, then store *replays*, both by their keys."""

    async def close(self) -> None:
        """Answer what waits, then close the connections."""


def settle_command(versions: Mapping[bytes, int], replays: Mapping[bytes, bytes]) -> Command:
    """Return the command that settles all of this on one server."""
    values = replays.values()
    return script("settle").call([*versions, *replays], len(versions), *versions.values(), REPLAY_SECONDS, *values)


class RedisServer:
    """
    One server, reached over few connections that all callers share.

    Args:
        url: redis://, rediss:// or unix://.

        place: Host and port, instead of those of the address.

    Attributes:
        probe_key: Is written by probes, since a server may answer and take no writes.

    Raises:
        ValueError, TypeError: The address has an option that there is not.
    """

    def __init__(self, url: str, place: tuple[str, int] | None = None, flush_seconds: float | None = None) -> None:
        self._flush_seconds = flush_seconds
        options: dict[str, Any] = dict(parse_url(url))
        if place is not None:
            options["host"], options["port"] = place
        self.host = str(options.get("host", "localhost"))
        self.probe_key = PROBE
        self._closed = False
        self._connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            # One deadline a flush is ours; a time-out a reply would cost as much as the rest of the path.
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_SECONDS,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        # Made at once, though not connected: an option that there is not is found before anybody waits.
        self._idle: list[AbstractConnection] = [self._connection_class(**self._options)]
        self._coalescer: Coalescer[Command, Any] = Coalescer(
            self._flush, batch_max=FLUSH_COMMANDS_MAX, in_flight_max=CONNECTIONS_MAX, queue_max=QUEUE_MAX
        )
        name = "Redis" if place is None else f"Redis at {place[0]}:{place[1]}"
        self.breaker = Breaker(name, self._ask)

    colocated = True

    @property
    def away(self) -> bool:
        """Whether it is known not to answer."""
        return self.breaker.open

    async def settle(self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes]) -> None:
        """Remove snapshots older than *versions*, then store *replays*: one command."""
        await self.submit(b"", settle_command(versions, replays))

    def submit(self, _key: bytes, command: Command) -> "asyncio.Future[Any]":
        """
        Put *command* in the next flush. The future gives its reply.

        Raises:
            RedisAwayError: Here, or from the future: it is away or refuses.
            MovedError, AskError: From the future: another server of the cluster has the key.
        """
        if self.breaker.open or self._closed:
            raise RedisAwayError
        try:
            return self._coalescer.submit(command)
        except QueueFullError:
            raise RedisAwayError from None

    async def close(self) -> None:
        """Answer what waits, then close the connections."""
        self._closed = True
        await self._coalescer.drain()
        await self.breaker.close()
        for connection in self._idle:
            await connection.disconnect(nowait=True)
        self._idle.clear()

    async def _ask(self) -> None:
        """Return when it can be connected to and takes a write, both in time."""
        connection = await self._take()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]  # of redis-py
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        reply = (await self._exchange([("SET", self.probe_key, b"", "PX", PROBE_MS)], connection))[0]
        # In a cluster the key may be elsewhere by now; that is an answer.
        if _is_of_server(reply):
            raise reply

    async def _flush(self, commands: list[Command]) -> list[Any]:
        if self.breaker.open:
            raise RedisAwayError
        try:
            replies = await self._exchange(commands, await self._take())
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            # A ValueError: what came is no text where there must be one.
            self.breaker.failed(error)
            raise RedisAwayError from error
        refusals = [reply for reply in replies if _is_refusal(reply)]
        if not refusals:
            self.breaker.succeeded()
            return replies
        # Out of memory, read-only, busy with a script: it is there, and of no use.
        refused = next(filter(_is_of_server, refusals), None)
        if refused is not None:
            self.breaker.failed(refused)
        else:
            log.warning("Redis refuses a command: %s", refusals[0])
        return [RedisAwayError() if _is_refusal(reply) else reply for reply in replies]

    async def _exchange(self, commands: list[Command], connection: AbstractConnection) -> list[Any]:
        """Send the commands and return their replies, errors of single commands among them."""
        try:
            async with asyncio.timeout(self._flush_seconds or FLUSH_SECONDS):
                replies = await _roundtrip(connection, commands)
                unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if unknown:
                    # Its script cache was flushed. These were not run, so they may be sent again, with their texts.
                    again = await _roundtrip(connection, [with_text(commands[n]) for n in unknown])
                    for n, reply in zip(unknown, again, strict=True):
                        replies[n] = reply
        except BaseException:
            # Replies may still be on their way: nobody must ever read them as the replies of something else.
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies

    async def _take(self) -> AbstractConnection:
        """Return a connection on which nothing is under way; it may have to be connected first."""
        while self._idle:
            connection = self._idle.pop()
            # The server closes what was idle for long, and says things that nobody asked for: nothing has been sent
            # on this one yet, so another one does.
            if not connection.is_connected or not await connection.can_read():
                return connection
            await connection.disconnect(nowait=True)
        return self._connection_class(**self._options)


def with_text(command: Command) -> Command:
    """Return a command that runs a script as one that brings the script along."""
    return ("EVAL", _texts()[str(command[1])], *command[2:]) if command[0] == "EVALSHA" else command


def _is_refusal(reply: object) -> bool:
    # That a slot has moved is an answer, for the cluster's client to follow.
    return isinstance(reply, ResponseError) and not isinstance(reply, MovedError | AskError)


def _is_of_server(reply: object) -> bool:
    return _is_refusal(reply) and not isinstance(reply, TryAgainError) and not str(reply).startswith(_OF_ONE_COMMAND)


async def _roundtrip(connection: AbstractConnection, commands: list[Command]) -> list[Any]:
    """
    Send the commands and a mark behind them, and return their replies.

    Raises:
        _ConfusedError: The reply in the place of the mark's is another: there were more or fewer than commands.
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
        raise _ConfusedError
    return replies
