"""
Redis or Valkey: whatever waits leaves as one pipeline and answers within a deadline.

Nothing is sent twice, but for invalidations: they may be, so they are.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, RedisError, ResponseError, TryAgainError

from server.store.breaker import Breaker
from server.store.coalescer import Coalescer, QueueFullError
from server.store.deadline import Deadline
from server.store.keyspace import PROBE, PROBE_MS
from server.store.redis_connections import Command, Connections, Link, roundtrip
from server.store.scripts import script, with_text
from server.telemetry.tallies import BatchTally

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
# Times a settle is sent. A lost look-up costs a read of Postgres, a lost settle lets others read what is outdated: so
# it outlasts a connection that has died, the discovery of a new server behind it, and one more accident.
INVALIDATION_ATTEMPTS_MAX = 4
# Seconds between them, with jitter: the server that has just dropped a connection is given a moment to be reached
# again, and workers that lost it together do not come back together.
INVALIDATION_PAUSE_SECONDS = 0.02

# What a server says of one command or of its key; every other error is one of the server.
_OF_ONE_COMMAND = ("WRONGTYPE", "user_script")
# What a server of a cluster says of a key that it does not have; MovedError is an AskError to redis-py.
_ELSEWHERE = (AskError, TryAgainError)

log = logging.getLogger(__name__)


class RedisAwayError(Exception):
    """Redis did not answer, or is known not to answer: nothing is known of the command."""


class RedisRefusedError(RedisAwayError):
    """Redis refuses the command, or is known not to answer: the same one again, a moment later, would fail again."""


class RedisElsewhereError(RedisRefusedError):
    """The server is one of a cluster and does not have the keys, or not all of them: nothing was done."""


class Redis(Protocol):
    """One server or a cluster of them. The keys of one ledger are on one server (`keyspace.py`)."""

    @property
    def away(self) -> bool:
        """Whether it is known not to answer."""

    def serves_snapshots(self, key: bytes) -> bool:
        """Whether snapshots may be read from the server of *key*, and stored there."""

    def submit(self, key: bytes, command: Command) -> Awaitable[Any]:
        """Send a command whose keys share the slot of *key*; what is returned gives the reply or RedisAwayError."""

    async def invalidate(
        self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], *, run: bytes, replay_seconds: int
    ) -> None:
        """
        Remove snapshots older than *versions* or of another run than *run*, then store *replays*, both by their keys.

        All keys are of one ledger.
        """

    async def close(self) -> None:
        """Answer what waits, then close the connections."""


def invalidate_command(
    versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], run: bytes, replay_seconds: int
) -> Command:
    """Return the command that does on one server what `Redis.invalidate` does."""
    keys, values = [*versions, *replays], replays.values()
    return script("invalidate").call(keys, len(versions), run, *versions.values(), replay_seconds, *values)


class RedisServer:
    """
    One server, reached over few connections that all callers share.

    Args:
        url: redis://, rediss:// or unix://.

        place: Host and port, instead of those of the address.

        newcomer: It has taken the place of another one.

        tally: Counts the flushes.

    Raises:
        ValueError, TypeError: The address has an option that there is not.
    """

    def __init__(
        self,
        url: str,
        place: tuple[str, int] | None = None,
        flush_seconds: float | None = None,
        *,
        newcomer: bool = False,
        tally: BatchTally | None = None,
    ) -> None:
        name = "Redis" if place is None else f"Redis at {place[0]}:{place[1]}"
        self._flush_seconds = flush_seconds
        self._connections = Connections(name, url, place, CONNECT_SECONDS, newcomer=newcomer)
        self._closed = False
        # Each command with the life of the server in which it was submitted.
        self._coalescer: Coalescer[tuple[int, Command], Any] = Coalescer(
            self._flush,
            batch_max=FLUSH_COMMANDS_MAX,
            in_flight_max=CONNECTIONS_MAX,
            queue_max=QUEUE_MAX,
            tally=tally,
        )
        self.breaker = Breaker(name, self._ask)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def away(self) -> bool:
        """Whether it is known not to answer."""
        return self.breaker.open

    def serves_snapshots(self, _key: bytes) -> bool:
        """Whether snapshots may be read from it and stored there."""
        return self._connections.trusted

    async def invalidate(
        self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], *, run: bytes, replay_seconds: int
    ) -> None:
        """Do all of it with one command."""
        command = invalidate_command(versions, replays, run, replay_seconds)
        await send_until_answered(lambda: self.submit(b"", command))

    def submit(self, _key: bytes, command: Command) -> "asyncio.Future[Any]":
        """
        Put *command* in the next flush. The future gives its reply.

        Raises:
            RedisAwayError: Here, or from the future: it is away, or refuses.
            RedisElsewhereError: From the future: another server of the cluster has the keys.
        """
        if self.breaker.open or self._closed:
            raise RedisRefusedError
        try:
            return self._coalescer.submit((self._connections.life, command))
        except QueueFullError:
            raise RedisAwayError from None

    async def close(self) -> None:
        """Answer what waits, then close the connections."""
        self._closed = True
        await self._coalescer.drain()
        await self.breaker.close()
        await self._connections.close()

    async def _ask(self) -> None:
        """Return when it can be connected to and takes a write, both in time; it may answer and take none."""
        link = await self._connections.take()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connections.open(link)
        except BaseException:
            await self._connections.drop(link)
            raise
        reply = (await self._exchange([("SET", PROBE, b"", "PX", PROBE_MS)], link, None))[0]
        # In a cluster the key may be elsewhere by now; that is an answer.
        if isinstance(reply, ResponseError) and _is_of_server(reply):
            raise reply

    async def _flush(self, asked: list[tuple[int, Command]]) -> list[Any]:
        if self.breaker.open:
            raise RedisAwayError
        # In one flush lives only grow: the first and the last tell of all.
        lives = {asked[0][0], asked[-1][0]}
        try:
            replies = await self._exchange([command for _, command in asked], await self._connections.take(), lives)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            # A ValueError: what came is no text where there must be one.
            self.breaker.failed(error)
            raise RedisAwayError from error
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if not errors:
            self.breaker.succeeded()
            return replies
        refusals = [error for error in errors if not isinstance(error, _ELSEWHERE)]
        # Out of memory, read-only, busy with a script: it is there, and of no use.
        refused = next(filter(_is_of_server, refusals), None)
        if refused is not None:
            self.breaker.failed(refused)
        elif refusals:
            # What is quoted behind it may be a caller's.
            log.warning("Redis refuses a command: %s", str(refusals[0]).partition("'")[0])
        return [_failure(reply) if isinstance(reply, ResponseError) else reply for reply in replies]

    async def _exchange(self, commands: list[Command], link: Link, lives: set[int] | None) -> list[Any]:
        """
        Send the commands and return their replies, errors of single commands among them.

        Args:
            lives: Of the server, in which the commands were submitted; None where any will do.

        Raises:
            RedisAwayError: The server has another life: what was asked for may not hold there. Nothing was sent.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        try:
            async with Deadline(self._loop, self._flush_seconds or FLUSH_SECONDS):
                await self._connections.open(link)
                replies = None
                if lives is None or lives == {link.life}:
                    replies = await _run(link.connection, commands)
        except BaseException:
            # Replies may still be on their way: nobody must ever read them as the replies of something else.
            await self._connections.drop(link)
            raise
        await self._connections.give_back(link)
        if replies is None:
            raise RedisAwayError
        return replies


async def _run(connection: AbstractConnection, commands: list[Command]) -> list[Any]:
    """Send the commands, those whose scripts the server has forgotten once more with their texts."""
    replies = await roundtrip(connection, commands)
    unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        # Its script cache was flushed. These were not run, so they may be sent again.
        again = await roundtrip(connection, [with_text(commands[n]) for n in unknown])
        for n, reply in zip(unknown, again, strict=True):
            replies[n] = reply
    return replies


async def send_until_answered(send: Callable[[], Awaitable[Any]]) -> None:
    """
    Send what may be sent twice, and once more when no answer came.

    Raises:
        RedisAwayError: Redis is known to be away, or refuses, or has not answered often enough.
    """
    for attempt in range(1, INVALIDATION_ATTEMPTS_MAX + 1):
        try:
            await send()
            return
        except RedisRefusedError:
            raise
        except RedisAwayError:
            if attempt == INVALIDATION_ATTEMPTS_MAX:
                raise
        await asyncio.sleep(INVALIDATION_PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter, not a secret


def _failure(error: ResponseError) -> RedisAwayError:
    return RedisElsewhereError() if isinstance(error, _ELSEWHERE) else RedisRefusedError()


def _is_of_server(error: ResponseError) -> bool:
    return not isinstance(error, _ELSEWHERE) and not str(error).startswith(_OF_ONE_COMMAND)
