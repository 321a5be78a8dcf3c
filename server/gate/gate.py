"""The gate: gets tokens, replays and snapshots for all waiting requests in one round trip."""

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from server.gate.keys import ApiKey
from server.gate.limit_memory import LimitMemory, now
from server.gate.limits import LocalBuckets
from server.gate.running import Running
from server.store.cache import Replay, Snapshot
from server.store.cache_counters import CacheCounters
from server.store.coalescer import Coalescer
from server.store.keyspace import LEASE_MS, Keyspace
from server.store.redis import Redis, RedisAwayError, RedisElsewhereError
from server.store.redis_link import Command
from server.store.scripts import script
from server.telemetry.tallies import Tallies

# Requests in a batch, of all keys: a script that runs longer than a few milliseconds delays all other users of Redis.
# Requests are sent in order of arrival, and admission lets in few more than this, so no key delays others for long.
BATCH_MAX = 500
# Batches sent and not yet answered.
IN_FLIGHT_MAX = 2

_pack: Final = msgspec.msgpack.Encoder().encode


class LookUp(IntEnum):
    """What the gate looks up for a request besides its tokens."""

    NOTHING = 0
    SNAPSHOT = 1
    REPLAY = 2


class Decision(msgspec.Struct, gc=False):
    """The gate's answer to a request."""

    # Microseconds until the tokens would be there; 0: admitted; -1: more tokens than the bucket can ever hold.
    wait: int
    # Whole tokens left in the narrowest bucket.
    left: int
    snapshot: Snapshot | None = None
    replay: Replay | None = None
    # Token of the lease that this request now holds on the snapshot that it asked for.
    lease: bytes | None = None
    # Position, among the key's limits, of the one with the longest wait.
    waits_for: int = 0


class _Item(msgspec.Struct, gc=False):
    key: ApiKey
    cost: int
    look_up: LookUp
    name: bytes


class Gate:
    """
    Admits requests within the limits of their keys, and looks up a replay or snapshot for them.

    Args:
        redis: The server that holds buckets, replays and snapshots.

        keyspace: The names of the keys in Redis.

        workers: Processes that share the limits; each admits its share alone when Redis is away.

        counters: Counts snapshots found and not found.

        tallies: Counts batches and decisions.

    Attributes:
        running: How many requests each key has under way in this worker.
    """

    def __init__(
        self, redis: Redis, keyspace: Keyspace, workers: int, counters: CacheCounters, tallies: Tallies
    ) -> None:
        self._redis = redis
        self.keyspace = keyspace
        self._workers = workers
        self._counters = counters
        self._tallies = tallies
        self._local = LocalBuckets()
        self.running = Running()
        # By the key object: a key whose limits have changed is another object.
        self._exhausted: LimitMemory[ApiKey] = LimitMemory()
        # A lease token is a random part of this process, a count and a position, so none is ever given twice.
        self._process = secrets.token_hex(4)
        self._batches = itertools.count(1)
        # Whether each ledger needs a separate call, as in a cluster.
        self._ledgers_apart = redis.ledgers_apart
        self._coalescer: Coalescer[_Item, Decision] = Coalescer(
            self._run,
            batch_max=BATCH_MAX,
            in_flight_max=IN_FLIGHT_MAX,
            tally=tallies.batches["gate"],
        )

    def exhausted(self, key: ApiKey) -> Decision | None:
        """Return the refusal of a request for one token if the key is known to have none left; otherwise None."""
        taken = self._exhausted.taken(key)
        if taken is None:
            return None
        self._count("memory", 1, 0)
        self._count_key(key, 1, limited=True)
        return Decision(taken.wait, taken.left, waits_for=taken.waits_for)

    def enter(
        self, key: ApiKey, cost: int, look_up: LookUp = LookUp.NOTHING, name: bytes = b""
    ) -> "asyncio.Future[Decision]":
        """
        Take *cost* tokens of a key and look something up.

        Args:
            name: The name in Redis of what is looked up.

        Raises:
            QueueFullError: Too many requests wait already.
        """
        return self._coalescer.submit(_Item(key, cost, look_up, name))

    async def left(self, key: ApiKey) -> list[int]:
        """
        Return how many whole tokens are left of each limit of a key, without taking any.

        Raises:
            QueueFullError: Too many requests wait already.
        """
        positions = range(len(key.limits))
        decisions = await asyncio.gather(*(self.enter(key.of_one_limit(position), 0) for position in positions))
        return [decision.left for decision in decisions]

    @property
    def is_alone(self) -> bool:
        """Whether this worker counts without Redis, and admits its share of each limit."""
        return self._redis.away or not self.keyspace.known

    async def drain(self) -> None:
        """Wait until all waiting requests have been answered."""
        await self._coalescer.drain()

    async def _run(self, items: list[_Item]) -> list[Decision]:
        if not self._ledgers_apart:
            try:
                return await self._serve(items)
            except RedisElsewhereError:
                # The address belongs to a server of a cluster, which the settings do not say. Nothing was run.
                self._ledgers_apart = True
        ledgers: dict[int, list[int]] = {}
        for number, item in enumerate(items):
            ledgers.setdefault(item.key.ledger_id, []).append(number)
        answers = await asyncio.gather(*(self._serve_ledger([items[n] for n in ledger]) for ledger in ledgers.values()))
        found = dict(zip(itertools.chain(*ledgers.values()), itertools.chain(*answers), strict=True))
        return [found[number] for number in range(len(items))]

    async def _serve_ledger(self, items: Sequence[_Item]) -> list[Decision]:
        """Serve requests of one ledger: in Redis, or alone while its keys move between servers of the cluster."""
        try:
            return await self._serve(items)
        except RedisElsewhereError:
            return [self._alone(item) for item in items]

    async def _serve(self, items: Sequence[_Item]) -> list[Decision]:
        """
        Serve requests whose keys in Redis may be used in one call: in Redis, or alone while it is away.

        Raises:
            RedisElsewhereError: The keys may not be used in one call, or are on another server.
        """
        if self.is_alone:
            return [self._alone(item) for item in items]
        try:
            return await self._ask(items)
        except RedisElsewhereError:
            raise
        except RedisAwayError:
            return [self._alone(item) for item in items]

    async def _ask(self, items: Sequence[_Item]) -> list[Decision]:
        asked = now()
        reply = await self._redis.submit(*self._command(items))
        waits = reply[::3]
        admitted = waits.count(0)
        self._count("redis", len(waits), admitted)
        decisions = [
            self._decision(item.look_up, wait, left, found)
            for item, wait, left, found in zip(items, waits, reply[1::3], reply[2::3], strict=True)
        ]
        if admitted < len(waits):
            for item, decision in zip(items, decisions, strict=True):
                if decision.wait:
                    self._tallies.limited_keys.add((item.key.ledger_id, item.key.id))
                    if item.cost == 1:
                        self._exhausted.remember(item.key, asked, decision.wait, decision.waits_for)
        return decisions

    def _command(self, items: Sequence[_Item]) -> tuple[bytes, Command]:
        """Return the script call for these requests, in order, after a key whose cluster slot all its keys share."""
        # The position of each bucket in the call, by name.
        places: dict[bytes, int] = {}
        buckets: list[int] = []
        names: list[bytes] = []
        requests: list[int] = []
        # For each run of requests of one key: the key, and the position in `requests` of the number of its requests.
        runs: list[tuple[ApiKey, int]] = []
        # While the Redis server is in quarantine, no snapshots are read and no leases taken. While the run of the
        # database is in doubt, no replays are read.
        first = self.keyspace.bucket(items[0].key.ledger_id, items[0].key.buckets[0][0])
        looks_up = {
            LookUp.NOTHING: 0,
            LookUp.SNAPSHOT: int(LookUp.SNAPSHOT) if self._redis.serves_snapshots(first) else 0,
            LookUp.REPLAY: int(LookUp.REPLAY) if self.keyspace.confirmation is not None else 0,
        }
        key: ApiKey | None = None
        counted = 0
        for item in items:
            if item.key is not key:
                key = item.key
                requests.append(len(key.buckets))
                for short, bucket in key.buckets:
                    name = self.keyspace.bucket(key.ledger_id, short)
                    place = places.get(name)
                    if place is None:
                        place = places[name] = len(places) + 1
                        buckets += bucket
                    requests.append(place)
                counted = len(requests)
                requests.append(0)
                runs.append((key, counted))
            requests[counted] += 1
            kind = looks_up[item.look_up]
            requests += (item.cost, kind)
            if kind:
                names.append(item.name)
        for key, counted in runs:
            self._count_key(key, requests[counted])
        token = f"{self._process}.{next(self._batches):x}."
        keys = [*places, *names]
        return first, script("gate").call(keys, token, LEASE_MS, _pack((len(places), *buckets, *requests)))

    def _count(self, by: str, number: int, admitted: int) -> None:
        decisions = self._tallies.decisions
        decisions[by, True] += admitted
        decisions[by, False] += number - admitted

    def _count_key(self, key: ApiKey, number: int, *, limited: bool = False) -> None:
        name = key.ledger_id, key.id
        self._tallies.asking_keys.add(name, number)
        if limited:
            self._tallies.limited_keys.add(name, number)

    def _alone(self, item: _Item) -> Decision:
        taken = self._local.take(item.key.ledger_id, item.key.limits, self._workers, item.cost)
        self._count("worker", 1, int(taken.wait == 0))
        self._count_key(item.key, 1, limited=taken.wait != 0)
        return Decision(taken.wait, taken.left, waits_for=taken.waits_for)

    def _decision(self, look_up: LookUp, wait: int, left: int, found: Any) -> Decision:
        if wait:
            return Decision(wait, left, waits_for=found - 1)
        if found is None:
            return Decision(wait, left)
        if look_up is LookUp.REPLAY:
            return Decision(wait, left, replay=Replay.unpacked(found))
        mark = found[:1]
        if mark == b"S" and (snapshot := Snapshot.unpacked(found, self.keyspace.run)) is not None:
            self._counters.hits += 1
            return Decision(wait, left, snapshot=snapshot)
        if mark == b"G":
            self._counters.misses += 1
            return Decision(wait, left, lease=found[1:])
        self._counters.busy += 1
        return Decision(wait, left)
