"""Redis Cluster: each command goes to the server that holds its key's slot, and follows when the slot has moved."""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, ResponseError

from server.store.keyspace import PROBE
from server.store.redis import FLUSH_SECONDS, Redis, RedisAwayError, RedisServer, insist, settle_command
from server.store.redis_connections import Command
from server.store.scripts import with_text
from server.telemetry.tallies import BatchTally

# Seconds between looks at the topology while commands meet moved slots or servers that are away.
LOOK_SECONDS = 0.5
# Servers that one command may be sent to: the one that is known, the one that has the slot, the one that gets it.
HOPS_MAX = 4
# Keys among which each server's probe finds one of its own. A server with so few slots that none is there is asked for
# a key of another, whose answer tells that it is there, though not that it takes writes.
PROBE_KEYS = 128

log = logging.getLogger(__name__)


class RedisCluster:
    """
    A cluster, known by one of its addresses.

    Args:
        url: redis:// or rediss://, with the address of any server of it.
    """

    colocated = False

    def __init__(self, url: str, flush_seconds: float | None = None, tally: BatchTally | None = None) -> None:
        self._url = url
        self._tally = tally
        self._flush_seconds = flush_seconds or FLUSH_SECONDS
        # Kept apart from the servers it tells of: where all of them have moved, its name may still lead to one.
        self._seed = RedisServer(url, None, flush_seconds, tally=tally)
        self._servers: dict[tuple[str, int], RedisServer] = {}
        self._slots: list[RedisServer | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._look: asyncio.Task[None] | None = None
        self._look_due = 0.0
        self._believed = False
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def away(self) -> bool:
        """Whether no server is known to answer."""
        return self._seed.away and all(server.away for server in self._servers.values())

    @property
    def trusted(self) -> bool:
        """Whether snapshots may be read from every server that is known, and stored there."""
        return bool(self._servers) and all(server.trusted for server in self._servers.values())

    async def submit(self, key: bytes, command: Command, *, trusting: bool = False) -> Any:
        """
        Send a command to the server of *key*, and to others as long as the answer is that they have it.

        Raises:
            RedisAwayError: The server that has the key does not answer, or is not to be trusted where it must be, or
                none is known to have it.
        """
        slot = key_slot(key)
        server = self._slots[slot] or await self._find(slot)
        asking = False
        for _ in range(HOPS_MAX):
            try:
                if not asking:
                    return await server.submit(key, command, trusting=trusting)
                return await _ask_and_send(server, key, command, trusting=trusting)
            except MovedError as error:
                asking = False
                server = self._slots[slot] = self._known(error.host or server.host, error.port)
                self._look_again()
            except AskError as error:
                # The slot is being moved, and this key has been or does not exist yet.
                asking = True
                server = self._known(error.host or server.host, error.port)
            except RedisAwayError:
                self._look_again()
                raise
        raise RedisAwayError

    async def settle(
        self, versions: Mapping[bytes, int], replays: Mapping[bytes, bytes], *, run: bytes, replay_seconds: int
    ) -> None:
        """Do it with a command a key; only when all snapshots are gone, store *replays*."""
        removals = {key: settle_command({key: version}, {}, run, replay_seconds) for key, version in versions.items()}
        await asyncio.gather(*(self._settle(key, command) for key, command in removals.items()))
        answers = {key: settle_command({}, {key: replay}, run, replay_seconds) for key, replay in replays.items()}
        await asyncio.gather(*(self._settle(key, command) for key, command in answers.items()))

    async def close(self) -> None:
        """Answer what waits, then close the connections."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
        for server in (self._seed, *self._servers.values()):
            await server.close()
        await asyncio.gather(*self._closing)

    async def _settle(self, key: bytes, command: Command) -> None:
        def away() -> bool:
            server = self._slots[key_slot(key)]
            return server is None or server.away

        await insist(lambda: self.submit(key, command), away)

    async def _find(self, slot: int) -> RedisServer:
        """Return the server of a slot that none is known for, if the topology tells in time."""
        look = self._look_again()
        if look is not None:
            await asyncio.wait([look], timeout=self._flush_seconds)
        server = self._slots[slot]
        if server is None:
            raise RedisAwayError
        return server

    def _look_again(self) -> "asyncio.Task[None] | None":
        """Look at the topology, unless that was done a moment ago; return the look that is under way."""
        now = time.monotonic()
        if self._look is not None and not self._look.done():
            return self._look
        if now < self._look_due or self._closed:
            return None
        self._look_due = now + LOOK_SECONDS
        self._look = asyncio.get_running_loop().create_task(self._learn())
        return self._look

    async def _learn(self) -> None:
        """Ask the servers, one after the other, which slots are where, and believe the first that answers."""
        # In any order: one that has fallen behind the others must not be believed every time.
        servers = random.sample([*self._servers.values()], len(self._servers))
        for server in (*servers, self._seed):
            try:
                self._believe(await server.submit(b"", ("CLUSTER", "SLOTS")), server)
            except (RedisAwayError, ResponseError):
                continue
            except (ValueError, TypeError, AttributeError, IndexError):
                log.warning("a server of the cluster tells its topology in a way that is not understood")
                continue
            return

    def _believe(self, ranges: list[Any], teller: RedisServer) -> None:
        """
        Replace what is known by the reply to CLUSTER SLOTS.

        Raises:
            ValueError, TypeError, AttributeError, IndexError: It is none, or tells nothing; nothing is replaced.
        """
        if not ranges:
            raise ValueError
        read = []
        for first, last, (host, port, *_), *_ in ranges:
            # A server that does not know its own name leaves it out.
            read.append((int(first), int(last), (host.decode() if host else teller.host, int(port))))
        self._slots = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, place in read:
            server = self._known(*place)
            self._slots[first : last + 1] = [server] * (last + 1 - first)
        self._believed = True
        for number in range(PROBE_KEYS):
            key = b"%b:{%x}" % (PROBE, number)
            holder = self._slots[key_slot(key)]
            if holder is not None:
                holder.probe_key = key
        for place in self._servers.keys() - {place for _, _, place in read}:
            closing = asyncio.get_running_loop().create_task(self._servers.pop(place).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _known(self, host: str, port: int) -> RedisServer:
        if self._closed:
            raise RedisAwayError
        server = self._servers.get((host, port))
        if server is None:
            # One that was not there at first may have been promoted, and know less than the one it follows.
            server = self._servers[host, port] = RedisServer(
                self._url, (host, port), self._flush_seconds, newcomer=self._believed, tally=self._tally
            )
        return server


async def _ask_and_send(server: RedisServer, key: bytes, command: Command, *, trusting: bool) -> Any:
    """Send a command about a key of a slot that the server is only about to get."""
    # Both in one tick, so in one flush, the one behind the other. With the script's text: a server that does not know
    # the script would have to be asked again.
    replies = (
        server.submit(key, ("ASKING",), trusting=trusting),
        server.submit(key, with_text(command), trusting=trusting),
    )
    return (await asyncio.gather(*replies))[1]


def connect(url: str, flush_seconds: float | None = None, tally: BatchTally | None = None) -> Redis:
    """
    Return the client of an address; one that ends in `?cluster=true` is that of a cluster.

    Args:
        flush_seconds: In which a whole flush must be answered.

        tally: Counts the flushes.

    Raises:
        ValueError, TypeError, RedisError: The address has an option that there is not, or one with a wrong value.
    """
    plain, of_cluster = split_address(url)
    if of_cluster:
        return RedisCluster(plain, flush_seconds, tally)
    return RedisServer(plain, None, flush_seconds, tally=tally)


def split_address(url: str) -> tuple[str, bool]:
    """Return an address without our own option `cluster=true`, and whether it has it."""
    parts = urlsplit(url)
    options = [option for option in parts.query.split("&") if option]
    if "cluster=true" not in options:
        return url, False
    options.remove("cluster=true")
    return urlunsplit(parts._replace(query="&".join(options))), True
