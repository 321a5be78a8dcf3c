"""The gate: tokens, replays and snapshots for all requests that wait, in one round trip."""

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgspec

from server.gate.keys import ApiKey
from server.gate.limit_memory import LimitMemory, now
from server.gate.limits import LocalBuckets
from server.store.cache import Replay, Snapshot
from server.store.cache_counters import CacheCounters
from server.store.coalescer import Coalescer
from server.store.keyspace import LEASE_MS, Keyspace
from server.store.redis import Redis, RedisAwayError
from server.store.scripts import script
from server.telemetry.tallies import Tallies

# Requests a batch: a script that runs longer than a few milliseconds holds up everybody else's.
BATCH_MAX = 500
# Batches away at once.
IN_FLIGHT_MAX = 2


class LookUp(IntEnum):
    """What a request wants to know besides its tokens."""

    NOTHING = 0
    SNAPSHOT = 1
    REPLAY = 2


class Decision(msgspec.Struct, gc=False):
    """What the gate says to a request."""

    # Microseconds until the tokens would be there; 0: admitted; -1: more than the bucket can ever hold.
    wait: int
    # Whole tokens left in the narrowest bucket.
    left: int
    snapshot: Snapshot | None = None
    replay: Replay | None = None
    # Token of the lease that this request holds now, on the snapshot it asked for.
    lease: bytes | None = None
    # Position, among the key's limits, of the one that is waited for longest.
    waits_for: int = 0


class _Item(msgspec.Struct, gc=False):
    key: ApiKey
    cost: int
    look_up: LookUp
    name: bytes


class Gate:
    """
    Admits requests.

    Args:
        redis: Where buckets, replays and snapshots are.

        keyspace: Names in it.

        workers: Processes that share the limits; each takes its part alone when Redis is away.

        counters: Of snapshots found and not found.

        tallies: Of batches and of what was decided.
    """

    def __init__(
        self, redis: Redis, keyspace: Keyspace, workers: int, counters: CacheCounters, tallies: Tallies
    ) -> None:
        self._redis = redis
        self.keyspace = keyspace
        self._workers = workers
        self._counters = counters
        self._decisions = tallies.decisions
        self._local = LocalBuckets()
        # By the key as it was read last: one whose limits have changed is another one.
        self._exhausted: LimitMemory[ApiKey] = LimitMemory()
        # Lease tokens are never given twice: a random part of this process, a count, a position.
        self._process = secrets.token_hex(4)
        self._batches = itertools.count(1)
        self._coalescer: Coalescer[_Item, Decision] = Coalescer(
            self._run,
            batch_max=BATCH_MAX,
            in_flight_max=IN_FLIGHT_MAX,
            tally=tallies.batches["gate"],
        )

    def exhausted(self, key: ApiKey) -> Decision | None:
        """Return the refusal of a request for one token of a key, if it is known that there is none yet."""
        taken = self._exhausted.taken(key)
        if taken is None:
            return None
        self._count("memory", 1, 0)
        return Decision(taken.wait, taken.left, waits_for=taken.waits_for)

    def enter(
        self, key: ApiKey, cost: int, look_up: LookUp = LookUp.NOTHING, name: bytes = b""
    ) -> "asyncio.Future[Decision]":
        """
        Take *cost* tokens of a key and look something up.

        Args:
            name: The key in Redis of what is looked up.

        Raises:
            QueueFullError: Too much waits already.
        """
        return self._coalescer.submit(_Item(key, cost, look_up, name))

    async def drain(self) -> None:
        """Return when all who wait have been answered."""
        await self._coalescer.drain()

    async def _run(self, items: list[_Item]) -> list[Decision]:
        groups: dict[tuple[int, str], list[int]] = {}
        for number, item in enumerate(items):
            groups.setdefault((item.key.ledger_id, item.key.id), []).append(number)
        decisions: list[Decision | None] = [None] * len(items)
        if len(groups) == 1:
            return await self._run_group(items)
        answers = await asyncio.gather(*(self._run_group([items[n] for n in group]) for group in groups.values()))
        for group, answer in zip(groups.values(), answers, strict=True):
            for number, decision in zip(group, answer, strict=True):
                decisions[number] = decision
        return [decision for decision in decisions if decision is not None]

    async def _run_group(self, items: Sequence[_Item]) -> list[Decision]:
        """Serve requests of one key: in Redis, or alone while it is away."""
        if self._redis.away or not self.keyspace.known:
            return [self._alone(item) for item in items]
        try:
            return await self._together(items)
        except RedisAwayError:
            return [self._alone(item) for item in items]

    async def _together(self, items: Sequence[_Item]) -> list[Decision]:
        key = items[0].key
        token = f"{self._process}.{next(self._batches):x}."
        arguments: list[bytes | str | int] = [len(key.buckets)]
        keys = []
        for name, bucket in key.buckets:
            keys.append(self.keyspace.bucket(key.ledger_id, name))
            arguments += bucket
        arguments += (token, LEASE_MS)
        # No snapshots are read and no leases taken while the server is in quarantine. No replays are read while the run
        # of the database is in doubt.
        serves_snapshots = self._redis.serves_snapshots(keys[0])
        confirmed = self.keyspace.confirmation is not None
        asked = now()
        for item in items:
            kind = item.look_up
            if not (confirmed if kind is LookUp.REPLAY else serves_snapshots):
                kind = LookUp.NOTHING
            arguments += (item.cost, int(kind))
            if kind:
                keys.append(item.name)
        reply = await self._redis.submit(keys[0], script("gate").call(keys, *arguments))
        waits = reply[::3]
        admitted = waits.count(0)
        self._count("redis", len(waits), admitted)
        decisions = [
            self._decision(item.look_up, wait, left, found)
            for item, wait, left, found in zip(items, waits, reply[1::3], reply[2::3], strict=True)
        ]
        if admitted < len(waits):
            for item, decision in zip(items, decisions, strict=True):
                if decision.wait and item.cost == 1:
                    self._exhausted.remember(key, asked, decision.wait, decision.waits_for)
                    break
        return decisions

    def _count(self, by: str, number: int, admitted: int) -> None:
        self._decisions[by, True] += admitted
        self._decisions[by, False] += number - admitted

    def _alone(self, item: _Item) -> Decision:
        taken = self._local.take(item.key.ledger_id, item.key.limits, self._workers, item.cost)
        self._count("worker", 1, int(taken.wait == 0))
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
