"""
Account snapshots with leases, after Nishtala et al., "Scaling Memcache at Facebook" (2013), with versions.

The key of an account holds a snapshot (`S<version>.<run> <body>`), a lease (`L<token>:<least version>`), or nothing.
A read that finds nothing takes the lease, reads Postgres, and may store what it read by presenting the lease's token.
Before anybody is shown a version that was not read from here, `invalidate` removes an older snapshot, and raises the
least version that may be stored under a lease. While a Redis is in quarantine after its start, no snapshot is read
from it and no lease is taken (`redis_connections.py`). A snapshot is served only in the run of the database in which
it was read (`keyspace.py`). That is the whole protocol; `tests/cache/` searches every interleaving of it.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from server.store.background import stop
from server.store.cache_counters import CacheCounters
from server.store.keyspace import ABSENCE_MS, LEASE_MS, SNAPSHOT_MS, Confirmation, Keyspace
from server.store.redis import Redis, RedisAwayError, RedisElsewhereError
from server.store.redis_link import Command
from server.store.scripts import script

# Maximum number of pending invalidations. Each is kept until its snapshot is removed or has expired.
PENDING_MAX = 100_000
# Seconds between attempts to send pending invalidations.
PENDING_RETRY_SECONDS = 0.1
# Pending invalidations that one attempt sends: about a millisecond of this process and of Redis.
PENDING_STEP_MAX = 1_000

# Redis counts whole milliseconds, and keeps a key through the last of them: one millisecond for the beginning of a
# life, one for its end.
EXPIRY_MARGIN_MS = 2

# The first bytes of a stored replay. A replay of an earlier version began with a digest.
_REPLAY_FORMAT = b"R2"

# The name of an account or idempotency key: its ledger, and its id there.
Name = tuple[int, str]

log = logging.getLogger(__name__)


class Replay(NamedTuple):
    """The answer of a finished write, and the request that it answers."""

    # SHA-256 of the first request as it was received, and of its meaning: 32 bytes each.
    fingerprint: bytes
    meaning: bytes
    status: int
    body: bytes

    def packed(self) -> bytes:
        """Return the bytes to store."""
        return b"%b%b%b%03d%b" % (_REPLAY_FORMAT, self.fingerprint, self.meaning, self.status, self.body)

    @classmethod
    def unpacked(cls, value: bytes) -> "Replay | None":
        """Read what `packed` returned; None for anything else, such as what an earlier version stored."""
        if not value[66:69].isdigit() or not value.startswith(_REPLAY_FORMAT):
            return None
        return cls(value[2:34], value[34:66], int(value[66:69]), value[69:])


class Snapshot(msgspec.Struct, gc=False, frozen=True):
    """
    An account as it is stored: its version (0: there is no such account) and the body of the answer.

    Before it is stored, it also says for how many milliseconds it is right (until a hold expires), where that is known.
    """

    version: int
    body: bytes
    right_ms: int | None = None

    def packed(self, run: bytes) -> bytes:
        """Return the bytes to store, for a snapshot read in *run* of the database."""
        return b"S%d.%b %b" % (self.version, run, self.body)

    @classmethod
    def unpacked(cls, value: bytes, run: bytes) -> "Snapshot | None":
        """Read what `packed` returned for the same run; None for anything else."""
        head, space, body = value.partition(b" ")
        version, _, found = head.partition(b".")
        if not space or found != run or not version[1:].isdigit():
            return None
        return cls(int(version[1:]), body)


class Cache:
    """
    Stores and invalidates snapshots and replays, and keeps pending invalidations until they are sent.

    Args:
        redis: Where they are stored.

        keyspace: Names the keys.

        counters: Counts of this process; this class adds to them.

        replay_seconds: Seconds for which the answers of finished writes are kept.
    """

    def __init__(self, redis: Redis, keyspace: Keyspace, counters: CacheCounters, replay_seconds: int) -> None:
        self._redis = redis
        # Whether each ledger's keys are sent in a command of their own.
        self._ledgers_apart = redis.ledgers_apart
        self._keyspace = keyspace
        self._replay_seconds = replay_seconds
        # Pending invalidations by ledger and account, in the order of their expiry: the version below which a snapshot
        # is outdated, and when any such snapshot has expired (monotonic clock).
        self._pending: OrderedDict[Name, tuple[int, float]] = OrderedDict()
        # No snapshot is read until then (monotonic clock), because a pending invalidation was dropped; 0: none was.
        self._no_reads_until = 0.0
        self._sender: asyncio.Task[None] | None = None
        self.counters = counters

    @property
    def confirmation(self) -> Confirmation | None:
        """Confirmation of the database's present run. Take it before you read or write what you then store here."""
        return self._keyspace.confirmation

    def invalidation_pending(self, ledger_id: int, account_id: str) -> bool:
        """Whether a snapshot of the account may be older than what this process has shown."""
        if self._no_reads_until and self._reads_nothing():
            return True
        return bool(self._pending) and (ledger_id, account_id) in self._pending

    async def invalidate(
        self,
        versions: Mapping[Name, int],
        replays: Mapping[Name, Replay] | None = None,
        confirmation: Confirmation | None = None,
    ) -> None:
        """
        Remove the snapshots of accounts that are older than *versions*; call it before anybody is shown these versions.

        This returns even when Redis is away. The invalidations are then pending: this process does not read those
        accounts from Redis, and keeps trying to remove their snapshots. Other processes that reach Redis may read these
        snapshots until they expire.

        Args:
            versions: The versions that will be shown, by account.

            replays: Answers of finished writes to store, by idempotency key.

            confirmation: The confirmation taken before the writes were sent. If it has changed, the writes may have
                been made in a run that has ended, and *replays* are not stored.
        """
        if replays is None or confirmation is None or confirmation is not self._keyspace.confirmation:
            replays = {}
        if not versions and not replays:
            return
        apart = self._ledgers_apart
        parts = _by_ledger(versions, replays) if apart else [(versions, replays)]
        if len(parts) == 1:
            sent = [await self._send(*parts[0])]
        else:
            sent = await asyncio.gather(*(self._send(*part) for part in parts))
        if self._ledgers_apart is not apart:
            await self.invalidate(versions, replays, confirmation)
            return
        for (of_ledger, _), done in zip(parts, sent, strict=True):
            if not done:
                self._remember(of_ledger)

    async def fill(
        self,
        ledger_id: int,
        account_id: str,
        token: bytes,
        snapshot: Snapshot,
        confirmation: Confirmation | None,
    ) -> None:
        """
        Store a snapshot under a lease, unless the lease was invalidated by a newer version.

        Args:
            token: Token of the lease.

            snapshot: The snapshot as it was read from Postgres.

            confirmation: The confirmation taken before the snapshot was read. If it has changed, nothing is stored.
        """
        unconfirmed = confirmation is None or confirmation is not self._keyspace.confirmation
        if unconfirmed or (self._no_reads_until and self._reads_nothing()):
            self.counters.fills_lost += 1
            await self.invalidate({(ledger_id, account_id): snapshot.version})
            return
        key, run = self._keyspace.snapshot(ledger_id, account_id), self._keyspace.run
        life_ms = SNAPSHOT_MS if snapshot.version else ABSENCE_MS
        if snapshot.right_ms is not None:
            life_ms = min(life_ms, snapshot.right_ms - EXPIRY_MARGIN_MS)
        command = script("fill").call([key], token, snapshot.version, snapshot.packed(run), life_ms, LEASE_MS, run)
        try:
            stored = await self._submit(key, command)
        except RedisAwayError:
            self._remember({(ledger_id, account_id): snapshot.version})
            return
        self.counters.fills += stored
        self.counters.fills_lost += 1 - stored

    async def stored(self, ledger_id: int, account_id: str) -> Snapshot | None:
        """
        Return the snapshot of an account that would be served now, or None.

        Raises:
            RedisAwayError: Redis does not answer, or serves no snapshots now.
        """
        key = self._keyspace.snapshot(ledger_id, account_id)
        found = await self._submit(key, ("GET", key))
        if found is None or not found.startswith(b"S"):
            return None
        return Snapshot.unpacked(found, self._keyspace.run)

    async def remove(self, ledger_id: int, account_id: str) -> None:
        """
        Remove the snapshot or lease of an account.

        Raises:
            RedisAwayError: Redis does not answer; the snapshot may still be there.
        """
        key = self._keyspace.snapshot(ledger_id, account_id)
        await self._redis.submit(key, ("DEL", key))

    async def close(self) -> None:
        """Stop sending pending invalidations."""
        log.info("cache: %s", self.counters)
        await stop(self._sender)

    def _submit(self, key: bytes, command: Command) -> Awaitable[Any]:
        """
        Send a command that reads or stores a snapshot.

        Raises:
            RedisAwayError: Here, or when the reply is awaited: Redis does not answer, or serves no snapshots now.
        """
        if not self._redis.serves_snapshots(key):
            raise RedisAwayError
        return self._redis.submit(key, command)

    async def _send(self, versions: Mapping[Name, int], replays: Mapping[Name, Replay]) -> bool:
        """Invalidate snapshots and store replays, all on one server; return whether that was done."""
        names = self._keyspace
        if not names.known:
            return False
        try:
            await self._redis.invalidate(
                {names.snapshot(*name): version for name, version in versions.items()},
                {names.replay(*name): replay.packed() for name, replay in replays.items()},
                run=names.run,
                replay_seconds=self._replay_seconds,
            )
        except RedisElsewhereError:
            # The address may lead to a cluster without saying so.
            self._ledgers_apart = True
            return False
        except RedisAwayError:
            return False
        return True

    def _remember(self, versions: Mapping[Name, int]) -> None:
        """Add pending invalidations. When there are too many, drop the oldest and read no snapshots for a while."""
        expiry = time.monotonic() + SNAPSHOT_MS / 1000
        self.counters.pending += len(versions)
        for name, version in versions.items():
            pending = self._pending.pop(name, (0, 0.0))
            if len(self._pending) >= PENDING_MAX:
                self._pending.popitem(last=False)
                self.counters.dropped += 1
                # By then the snapshot of the dropped invalidation has expired.
                self._no_reads_until = expiry
            self._pending[name] = (max(version, pending[0]), expiry)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_pending())

    def _reads_nothing(self) -> bool:
        if time.monotonic() >= self._no_reads_until:
            self._no_reads_until = 0.0
        return bool(self._no_reads_until)

    async def _send_pending(self) -> None:
        """Send pending invalidations as soon as Redis is back, until all are sent or have expired."""
        while self._pending:
            expired = self._forget_expired()
            step = {name: version for name, (version, _) in islice(self._pending.items(), PENDING_STEP_MAX)}
            away = False
            for versions, _ in [(step, {})] if not self._ledgers_apart else _by_ledger(step, {}):
                if not await self._send(versions, {}):
                    away = True
                    continue
                for name, version in versions.items():
                    self._forget(name, version)
            if away:
                # More may have expired than one step forgets: go on at once.
                await asyncio.sleep(0 if expired == PENDING_STEP_MAX else PENDING_RETRY_SECONDS)

    def _forget_expired(self) -> int:
        """Forget pending invalidations that have expired, at most PENDING_STEP_MAX, and return how many."""
        now = time.monotonic()
        names = [name for name, (_, expiry) in islice(self._pending.items(), PENDING_STEP_MAX) if expiry <= now]
        for name in names:
            del self._pending[name]
        return len(names)

    def _forget(self, name: Name, version: int) -> None:
        if self._pending.get(name, (version + 1, 0.0))[0] <= version:
            del self._pending[name]


def highest(pairs: Iterable[tuple[Name, int | None]]) -> dict[Name, int]:
    """Return the highest version of each account in *pairs* of account and version; None is no version."""
    versions: dict[Name, int] = {}
    for name, version in pairs:
        if version is not None and version > versions.get(name, 0):
            versions[name] = version
    return versions


def _by_ledger(
    versions: Mapping[Name, int], replays: Mapping[Name, Replay]
) -> list[tuple[dict[Name, int], dict[Name, Replay]]]:
    """Split versions and replays by ledger."""
    parts: dict[int, tuple[dict[Name, int], dict[Name, Replay]]] = {}
    for name, version in versions.items():
        parts.setdefault(name[0], ({}, {}))[0][name] = version
    for name, replay in replays.items():
        parts.setdefault(name[0], ({}, {}))[1][name] = replay
    return list(parts.values())
