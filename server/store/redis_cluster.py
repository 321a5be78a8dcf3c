"""
Redis Cluster: redis-py tells which server has which slot, and a `RedisServer` talks to each of them.

All keys of a ledger share a slot (`keyspace.py`), so each command goes to one server.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.cluster import PRIMARY
from redis.crc import key_slot
from redis.exceptions import RedisClusterException

from server.store.background import stop
from server.store.by_hand import needs_task
from server.store.redis import (
    CONNECT_SECONDS,
    FLUSH_SECONDS,
    Redis,
    RedisAwayError,
    RedisElsewhereError,
    RedisRefusedError,
    RedisServer,
    invalidate_command,
    send_until_answered,
)
from server.store.redis_link import Command
from server.store.scripts import with_text
from server.telemetry.tallies import BatchTally

# Seconds from one reading of the topology to the next, while commands meet moved slots or servers that are away.
TOPOLOGY_SECONDS = 0.5
# Seconds that one reading may take: the servers are asked in turn until one answers. No request waits for that.
TOPOLOGY_DEADLINE_SECONDS = 2.0
# Seconds that the invalidations of one batch of postings may take while their slot is being moved: connections are
# made, and hundreds of keys are sent one after the other.
MOVING_SECONDS = 0.5

log = logging.getLogger(__name__)


class ClusterClient:
    """
    The client of a cluster, which is given one of its addresses.

    Args:
        url: redis:// or rediss://, with the address of any of its servers.

        flush_seconds: Seconds in which one server must answer a flush.

        tally: Counts the flushes of all servers.

    Raises:
        ValueError, TypeError: The address has an option that a cluster does not have.
    """

    ledgers_apart = True

    def __init__(self, url: str, flush_seconds: float | None = None, tally: BatchTally | None = None) -> None:
        self._url = url
        self._flush_seconds = flush_seconds
        self._tally = tally
        try:
            self._redis_py()
        except RedisClusterException as error:
            raise ValueError(str(error)) from None
        # redis-py checks some options only when it connects; this checks them now.
        RedisServer(url)
        # The primaries, by host and port and by slot.
        self._servers: dict[tuple[str, int], RedisServer] = {}
        self._slots: dict[int, RedisServer] = {}
        self._reader: asyncio.Task[None] | None = None
        # Set when the first reading of the topology has ended; when it must be read again; when the client is closing.
        self._was_read, self._outdated, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # Whether the last reading of the topology failed.
        self._lost = False
        self._moving = asyncio.Lock()

    @property
    def away(self) -> bool:
        """Whether no server is known to answer."""
        return all(server.away for server in self._servers.values()) if self._servers else self._lost

    def serves_snapshots(self, key: bytes) -> bool:
        """Whether snapshots may be read from the server of *key*, and stored there."""
        server = self._slots.get(key_slot(key))
        return server is not None and server.serves_snapshots(key)

    async def submit(self, key: bytes, command: Command) -> Any:
        """
        Send a command to the server that is known to have the slot of *key*, and to no other.

        Raises:
            RedisAwayError: That server does not answer or refuses, or no server is known in time.
            RedisElsewhereError: The slot has moved or is being moved.
        """
        if self._closing.is_set():
            raise RedisRefusedError
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._keep_reading())
        try:
            if not self._was_read.is_set():
                await needs_task()
                async with asyncio.timeout(self._flush_seconds or FLUSH_SECONDS):
                    await self._was_read.wait()
            server = self._slots.get(key_slot(key))
            if server is None:
                raise RedisRefusedError
            return await server.submit(key, command)
        except TimeoutError:
            raise RedisAwayError from None
        except RedisAwayError:
            self._outdated.set()
            raise

    async def invalidate(
        self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], *, run: bytes, replay_seconds: int
    ) -> None:
        """Do what `Redis.invalidate` says; replays are not stored while the slot moves, so retries reach Postgres."""
        command = invalidate_command(versions, replays, run, replay_seconds)
        try:
            await send_until_answered(lambda: self.submit(next(iter((*versions, *replays))), command))
        except RedisElsewhereError:
            await self._find_and_invalidate(versions, run)

    async def close(self) -> None:
        """Answer the waiting commands, then close the connections."""
        self._closing.set()
        self._outdated.set()
        if self._reader is not None:
            # If it is cancelled while it reads, redis-py may leave a connection behind.
            await asyncio.wait([self._reader], timeout=TOPOLOGY_DEADLINE_SECONDS)
            await stop(self._reader)
        for server in self._servers.values():
            await server.close()

    async def _find_and_invalidate(self, versions: Mapping[bytes, int], run: bytes) -> None:
        """
        Invalidate key by key, and let redis-py follow the keys that move.

        Raises:
            RedisAwayError: Not all keys were invalidated.
        """
        done = 0
        await needs_task()
        # Any error: redis-py does not check the servers' answers, and does not know a server that gets its first slot.
        with suppress(Exception):
            # redis-py sends ASKING and the command over the same connection only while nobody else uses the client
            # and it has no other connection.
            async with asyncio.timeout(MOVING_SECONDS), self._moving, self._redis_py(*self._servers) as cluster:
                for key, version in versions.items():
                    # A failure at one key says nothing about the next one.
                    with suppress(Exception):
                        await cluster.execute_command(*with_text(invalidate_command({key: version}, {}, run, 0)))
                        done += 1
        if done < len(versions):
            raise RedisAwayError

    def _redis_py(self, *places: tuple[str, int]) -> RedisCluster:
        """
        Return a client of redis-py, not connected yet, that asks the servers at *places* for the topology.

        Raises:
            RedisClusterException, ValueError, TypeError: The address has an option that a cluster does not have.
        """
        return RedisCluster.from_url(
            self._url,
            # The host in the address is asked as well: its name may lead to a server after all of these are gone.
            startup_nodes=[ClusterNode(*place) for place in places],
            dynamic_startup_nodes=False,
            # If a slot has no server, the other slots can still be used.
            require_full_coverage=False,
            max_connections=1,
            protocol=2,
            socket_timeout=CONNECT_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
        )

    async def _keep_reading(self) -> None:
        """Read the topology, and again whenever a command meets a server that is away or no longer has the slot."""
        while not self._closing.is_set():
            self._outdated.clear()
            try:
                async with asyncio.timeout(TOPOLOGY_DEADLINE_SECONDS):
                    await self._read()
                self._lost = False
            except Exception as error:
                # Any error: redis-py does not check what the server answers.
                if not self._lost:
                    log.warning("the topology of the Redis cluster could not be read: %s", type(error).__name__)
                self._lost = True
                self._outdated.set()
            self._was_read.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(TOPOLOGY_SECONDS):
                    await self._closing.wait()
            await self._outdated.wait()

    async def _read(self) -> None:
        topology = self._redis_py(*self._servers).nodes_manager
        try:
            # The client's own `initialize` would also read the list of all commands.
            await topology.initialize()
        finally:
            await topology.aclose("startup_nodes")
        places = {node.name: (node.host, int(node.port)) for node in topology.get_nodes_by_server_type(PRIMARY)}
        gone = self._servers.keys() - set(places.values())
        # A primary that was not there at first may be a promoted replica that has missed invalidations.
        took_over = bool(self._servers)
        for place in set(places.values()) - self._servers.keys():
            self._servers[place] = RedisServer(
                self._url, place, self._flush_seconds, took_over=took_over, tally=self._tally
            )
        owners = {name: self._servers[place] for name, place in places.items()}
        self._slots = {slot: owners[nodes[0].name] for slot, nodes in topology.slots_cache.items()}
        for place in gone:
            await self._servers.pop(place).close()


def connect(url: str, flush_seconds: float | None = None, tally: BatchTally | None = None) -> Redis:
    """
    Return the client for an address. An address that ends in `?cluster=true` is that of a cluster.

    Args:
        flush_seconds: Seconds in which a whole flush must be answered.

        tally: Counts the flushes.

    Raises:
        ValueError, TypeError, RedisError: The address has an unknown option, or an option with a wrong value.
    """
    plain, of_cluster = split_address(url)
    if of_cluster:
        return ClusterClient(plain, flush_seconds, tally)
    return RedisServer(plain, None, flush_seconds, tally=tally)


def split_address(url: str) -> tuple[str, bool]:
    """Return an address without our own option `cluster=true`, and whether it has it."""
    parts = urlsplit(url)
    options = [option for option in parts.query.split("&") if option]
    if "cluster=true" not in options:
        return url, False
    options.remove("cluster=true")
    return urlunsplit(parts._replace(query="&".join(options))), True
