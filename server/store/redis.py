"""
One Redis or Valkey server: waiting commands are sent as one pipeline, which must be answered within a deadline.

A command without an answer is not sent again, except an invalidation: running that twice does no harm.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from server.store.breaker import Breaker
from server.store.by_hand import needs_task
from server.store.coalescer import Coalescer, QueueFullError
from server.store.deadline import Deadline
from server.store.keyspace import PROBE, PROBE_MS
from server.store.redis_connections import Connections
from server.store.redis_link import Command, Link
from server.store.scripts import script, with_text
from server.telemetry.tallies import BatchTally

# Seconds in which a whole flush must be answered, connecting included. A healthy one takes a millisecond; a caller
# that waits longer is better served without Redis.
FLUSH_SECONDS = 0.05
# Seconds in which a probe may connect, name resolution and TLS included. A flush that connects has only its own
# deadline. Where that is too short, flushes use the connection that a probe has made.
CONNECT_SECONDS = 0.25
# Connections of a worker to one server: one sends while replies are read from the other.
CONNECTIONS_MAX = 2
# Commands in one flush: about 10 ms of Redis's time.
FLUSH_COMMANDS_MAX = 1_000
# Commands that may wait: 50 ms of work.
QUEUE_MAX = 5_000
# Times that an invalidation is sent. A lost look-up costs a read of Postgres; after a lost invalidation other workers
# may read outdated snapshots. Four attempts outlast a dead connection, the discovery of a restart and one more loss.
INVALIDATION_ATTEMPTS_MAX = 4
# Seconds between attempts, with jitter: the server gets a moment to be reachable again, and workers that lost it at the
# same time do not come back at the same time.
INVALIDATION_PAUSE_SECONDS = 0.02

# Beginnings of the errors that concern one command or its key. All other errors concern the server.
_OF_ONE_COMMAND = ("WRONGTYPE", "user_script")
# Answers of a cluster's server that does not have all keys of a command. redis-py's MovedError is an AskError.
_ELSEWHERE = (AskError, TryAgainError, ClusterCrossSlotError)

log = logging.getLogger(__name__)


class RedisAwayError(Exception):
    """Redis did not answer, or is known not to answer. The command may have been run."""


class RedisRefusedError(RedisAwayError):
    """Redis refused the command, or is known not to answer. The same command would fail again a moment later."""


class RedisElsewhereError(RedisRefusedError):
    """The server belongs to a cluster and does not have all keys of the command. The command was not run."""


class Redis(Protocol):
    """
    One server or a cluster. All keys of a ledger are on the same server (`keyspace.py`).

    Attributes:
        ledgers_apart: Whether no command may use keys of two ledgers.
    """

    ledgers_apart: bool

    @property
    def away(self) -> bool:
        """Whether Redis is known not to answer."""

    def serves_snapshots(self, key: bytes) -> bool:
        """Whether snapshots may be read from the server of *key*, and stored there."""

    def submit(self, key: bytes, command: Command) -> Awaitable[Any]:
        """
        Send a command whose keys share the slot of *key*, and return an awaitable of its reply.

        Raises:
            RedisAwayError: Here, or when the reply is awaited: there is no reply.
        """

    async def invalidate(
        self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], *, run: bytes, replay_seconds: int
    ) -> None:
        """
        Remove snapshots that are older than *versions* or not of *run*, then store *replays*. All are on one server.

        Args:
            versions: By the key of the snapshot.

            replays: By the key of the replay.

            run: The present run of the database.

            replay_seconds: Seconds for which the replays are kept.

        Raises:
            RedisAwayError: It was not done, or it is unknown whether it was.
        """

    async def close(self) -> None:
        """Answer the waiting commands, then close the connections."""


def invalidate_command(
    versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], run: bytes, replay_seconds: int
) -> Command:
    """Return the command that does what `Redis.invalidate` says, where one server has all the keys."""
    keys, values = [*versions, *replays], replays.values()
    return script("invalidate").call(keys, len(versions), run, *versions.values(), replay_seconds, *values)


class RedisServer:
    """
    One server, reached over a few connections that all callers share.

    Args:
        url: redis://, rediss:// or unix://.

        place: Host and port to use instead of those in the address.

        flush_seconds: Seconds in which a flush must be answered.

        took_over: Whether the server has taken over the slots of another one, and so counts as just started.

        tally: Counts the flushes.

    Raises:
        ValueError, TypeError: The address has an unknown option.
    """

    ledgers_apart = False

    def __init__(
        self,
        url: str,
        place: tuple[str, int] | None = None,
        flush_seconds: float | None = None,
        *,
        took_over: bool = False,
        tally: BatchTally | None = None,
    ) -> None:
        name = "Redis" if place is None else f"Redis at {place[0]}:{place[1]}"
        self._flush_seconds = flush_seconds
        self._connections = Connections(name, url, place, CONNECT_SECONDS, took_over=took_over)
        self._closed = False
        # Each command, with the server's epoch when it was submitted.
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
        """Whether the server is known not to answer."""
        return self.breaker.open

    def serves_snapshots(self, _key: bytes) -> bool:
        """Whether snapshots may be read from the server and stored there."""
        return self._connections.serves_snapshots

    async def invalidate(
        self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], *, run: bytes, replay_seconds: int
    ) -> None:
        """Do what `Redis.invalidate` says with one command."""
        command = invalidate_command(versions, replays, run, replay_seconds)
        await send_until_answered(lambda: self.submit(b"", command))

    def submit(self, _key: bytes, command: Command) -> "asyncio.Future[Any]":
        """
        Put *command* in the next flush. The future gives its reply.

        Raises:
            RedisAwayError: Here, or from the future: the server is away or refuses.
            RedisElsewhereError: From the future: another server of the cluster has the keys.
        """
        if self.breaker.open or self._closed:
            raise RedisRefusedError
        try:
            return self._coalescer.submit((self._connections.epoch, command))
        except QueueFullError:
            raise RedisAwayError from None

    async def close(self) -> None:
        """Answer the waiting commands, then close the connections."""
        self._closed = True
        await self._coalescer.drain()
        await self.breaker.close()
        await self._connections.close()

    async def _ask(self) -> None:
        """Connect and write a key, since a server may answer but take no writes."""
        link = await self._connections.take()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if link.epoch is None:
                    await self._connections.open(link, asyncio.get_running_loop().time() + CONNECT_SECONDS)
        except BaseException:
            await self._connections.drop(link)
            raise
        reply = (await self._exchange([("SET", PROBE, b"", "PX", PROBE_MS)], link, None))[0]
        # A cluster's server that does not have the key answers all the same.
        if isinstance(reply, ResponseError) and _is_of_server(reply):
            raise reply

    async def _flush(self, asked: list[tuple[int, Command]]) -> list[Any]:
        if self.breaker.open:
            raise RedisAwayError
        # Epochs only grow, so the first and the last command tell whether all have the same one.
        epochs = {asked[0][0], asked[-1][0]}
        try:
            replies = await self._exchange([command for _, command in asked], await self._connections.take(), epochs)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            # ValueError: a reply is not text where it must be.
            self.breaker.failed(error)
            raise RedisAwayError from error
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if not errors:
            self.breaker.succeeded()
            return replies
        refusals = [error for error in errors if not isinstance(error, _ELSEWHERE)]
        # Out of memory, read-only, or busy with a script: the server answers but cannot be used.
        refused = next(filter(_is_of_server, refusals), None)
        if refused is not None:
            self.breaker.failed(refused)
        elif refusals:
            # The text that the server quotes may come from a caller.
            log.warning("Redis refuses a command: %s", str(refusals[0]).partition("'")[0])
        return [_failure(reply) if isinstance(reply, ResponseError) else reply for reply in replies]

    async def _exchange(self, commands: list[Command], link: Link, epochs: set[int] | None) -> list[Any]:
        """
        Send the commands and return their replies, errors of single commands among them.

        Args:
            epochs: Epochs in which the commands were submitted; None if they may be sent in any epoch.

        Raises:
            RedisAwayError: The server was restarted since the commands were submitted. Nothing was sent.

            RedisError, OSError, TimeoutError, ValueError: The server did not answer, or not as it must.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        seconds = self._flush_seconds or FLUSH_SECONDS
        deadline = self._loop.time() + seconds
        try:
            if link.epoch is None:
                await needs_task()
                async with Deadline(self._loop, seconds):
                    await self._connections.open(link, deadline)
            replies = None
            if epochs is None or epochs == {link.epoch}:
                replies = await _run(link, commands, deadline)
        except BaseException:
            # Late replies may still arrive on this connection, and must not be read as replies to other commands.
            await self._connections.drop(link)
            raise
        await self._connections.give_back(link)
        if replies is None:
            raise RedisAwayError
        return replies


async def _run(link: Link, commands: list[Command], deadline: float) -> list[Any]:
    """Send the commands. Those whose scripts the server does not know are sent again with the text of the script."""
    replies = await link.exchange(commands, deadline)
    unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        # They were not run, so they may be sent again.
        again = await link.exchange([with_text(commands[n]) for n in unknown], deadline)
        for n, reply in zip(unknown, again, strict=True):
            replies[n] = reply
    return replies


async def send_until_answered(send: Callable[[], Awaitable[Any]]) -> None:
    """
    Call *send* until it gets an answer, a bounded number of times. What it sends may be run more than once.

    Raises:
        RedisAwayError: Redis refuses, is known not to answer, or has not answered any attempt.
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
