"""
Account snapshots with leases, after Nishtala et al., "Scaling Memcache at Facebook" (2013), with versions.

One key an account holds a snapshot (`S<version>.<run> <body>`), a lease (`L<token>:<least version>`), or nothing. A
read that finds nothing takes the lease, reads Postgres and may store what it read by presenting the token. Whoever is
about to show an account at a version that did not come from here says so first (`seen`): an older snapshot goes, and
a lease takes no older fill. A Redis just started is given no lease and read by nobody (`redis_connections.py`). A
snapshot is served only in the run of the database that it was read in (`keyspace.py`). That is the whole protocol;
`tests/cache/` searches every interleaving of it.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from server.store.cache_counters import CacheCounters
from server.store.keyspace import ABSENCE_MS, LEASE_MS, SNAPSHOT_MS, Confirmation, Keyspace
from server.store.redis import Redis, RedisAwayError
from server.store.redis_connections import Command
from server.store.scripts import script

# Accounts whose outdated snapshots could not be removed, remembered until they can or until they have expired.
PENDING_MAX = 100_000
# Seconds between attempts to remove them.
PENDING_RETRY_SECONDS = 0.1
# Of them, those that one attempt looks at: about a millisecond of this process and of Redis.
PENDING_STEP_MAX = 1_000

# Stands before a replay. What an earlier version stored began with its digest.
_REPLAY_FORMAT = b"R2"

log = logging.getLogger(__name__)


class Replay(NamedTuple):
    """The answer of a finished write: what it was bound to, and what was said."""

    # SHA-256 of the first request as it was received, and of what it means: 32 bytes each.
    fingerprint: bytes
    meaning: bytes
    status: int
    body: bytes

    def packed(self) -> bytes:
        """Return it as the bytes that are stored."""
        return b"%b%b%b%03d%b" % (_REPLAY_FORMAT, self.fingerprint, self.meaning, self.status, self.body)

    @classmethod
    def unpacked(cls, value: bytes) -> "Replay | None":
        """Return what `packed` made; None for anything else, such as what an earlier version stored."""
        if not value[66:69].isdigit() or not value.startswith(_REPLAY_FORMAT):
            return None
        return cls(value[2:34], value[34:66], int(value[66:69]), value[69:])


class Snapshot(msgspec.Struct, gc=False, frozen=True):
    """A stored answer: the account's version (0: there is no such account) and its body as it is sent."""

    version: int
    body: bytes

    def packed(self, run: bytes) -> bytes:
        """Return it as the bytes that are stored, read in this run of the database."""
        return b"S%d.%b %b" % (self.version, run, self.body)

    @classmethod
    def unpacked(cls, value: bytes, run: bytes) -> "Snapshot | None":
        """Return what `packed` made in the same run; None for anything else."""
        head, space, body = value.partition(b" ")
        version, _, found = head.partition(b".")
        if not space or found != run or not version[1:].isdigit():
            return None
        return cls(int(version[1:]), body)


class Cache:
    """
    What this process says to the cache, and what it could not say yet.

    Args:
        redis: Where it is.

        keyspace: Names in it.

        counters: Are kept up to date.

        replay_seconds: For which the answers of finished writes are kept.
    """

    def __init__(self, redis: Redis, keyspace: Keyspace, counters: CacheCounters, replay_seconds: int) -> None:
        self._redis = redis
        self._keyspace = keyspace
        self._replay_seconds = replay_seconds
        # Snapshots older than these versions may still be there: (version, expiry of any such snapshot), by expiry.
        self._pending: OrderedDict[tuple[int, str], tuple[int, float]] = OrderedDict()
        # Until when any snapshot may be older than what this process has shown; 0 while none but the pending ones are.
        self._distrusts_until = 0.0
        self._remover: asyncio.Task[None] | None = None
        self.counters = counters

    @property
    def confirmation(self) -> Confirmation | None:
        """Of the present run of the database: to be looked at before what is stored here is read or written there."""
        return self._keyspace.confirmation

    def invalidation_pending(self, ledger_id: int, account_id: str) -> bool:
        """Whether a snapshot of the account may be older than what this process has shown."""
        if self._distrusts_until and self._distrusts():
            return True
        return bool(self._pending) and (ledger_id, account_id) in self._pending

    async def invalidate(
        self,
        ledger_id: int,
        versions: Mapping[str, int],
        replays: Mapping[str, Replay] | None = None,
        confirmation: Confirmation | None = None,
    ) -> None:
        """
        Remove the snapshots of accounts that are older than *versions*; call it before anybody is shown these versions.

        When Redis is away this returns all the same. The invalidations are pending then: this process does not read
        those accounts from Redis and goes on trying to remove them. Other processes that reach Redis may read them
        until they expire.

        Args:
            versions: By account.

            replays: Answers of finished writes to store, by idempotency key.

            confirmation: As it was before the writes were sent. Where it is another one now, the writes may have been
                made in a run that has ended, and *replays* are not stored.
        """
        if replays is None or confirmation is None or confirmation is not self._keyspace.confirmation:
            replays = {}
        if not versions and not replays:
            return
        try:
            await self._send(ledger_id, versions, replays)
        except RedisAwayError:
            self._remember(ledger_id, versions)

    async def fill(
        self,
        ledger_id: int,
        account_id: str,
        token: bytes,
        snapshot: Snapshot,
        confirmation: Confirmation | None,
    ) -> None:
        """
        Store a snapshot under a lease, unless something newer has been seen; returns when that is decided.

        Args:
            confirmation: As it was before it was read. Where it is another one now, nothing is stored.
        """
        unconfirmed = confirmation is None or confirmation is not self._keyspace.confirmation
        if unconfirmed or (self._distrusts_until and self._distrusts()):
            self.counters.fills_lost += 1
            await self.invalidate(ledger_id, {account_id: snapshot.version})
            return
        key, run = self._keyspace.snapshot(ledger_id, account_id), self._keyspace.run
        life_ms = SNAPSHOT_MS if snapshot.version else ABSENCE_MS
        command = script("fill").call([key], token, snapshot.version, snapshot.packed(run), life_ms, LEASE_MS, run)
        try:
            stored = await self._submit(key, command)
        except RedisAwayError:
            self._remember(ledger_id, {account_id: snapshot.version})
            return
        self.counters.fills += stored
        self.counters.fills_lost += 1 - stored

    async def stored(self, ledger_id: int, account_id: str) -> Snapshot | None:
        """
        Return the snapshot of an account that may be served now, if there is one.

        Raises:
            RedisAwayError: Nobody knows.
        """
        key = self._keyspace.snapshot(ledger_id, account_id)
        found = await self._submit(key, ("GET", key))
        if found is None or not found.startswith(b"S"):
            return None
        return Snapshot.unpacked(found, self._keyspace.run)

    async def remove(self, ledger_id: int, account_id: str) -> None:
        """
        Remove whatever is stored about an account.

        Raises:
            RedisAwayError: It may still be there.
        """
        key = self._keyspace.snapshot(ledger_id, account_id)
        await self._redis.submit(key, ("DEL", key))

    async def close(self) -> None:
        """Stop removing what is pending."""
        log.info("cache: %s", self.counters)
        if self._remover is not None:
            self._remover.cancel()
            await asyncio.gather(self._remover, return_exceptions=True)

    def _submit(self, key: bytes, command: Command) -> Awaitable[Any]:
        """
        Send a command that reads or stores a snapshot.

        Raises:
            RedisAwayError: Here, or from what is returned: no snapshots are used on that server now, or it is away.
        """
        if not self._redis.serves_snapshots(key):
            raise RedisAwayError
        return self._redis.submit(key, command)

    async def _send(self, ledger_id: int, versions: Mapping[str, int], replays: Mapping[str, Replay]) -> None:
        names = self._keyspace
        if not names.known:
            raise RedisAwayError
        await self._redis.invalidate(
            {names.snapshot(ledger_id, account_id): version for account_id, version in versions.items()},
            {names.replay(ledger_id, key): replay.packed() for key, replay in replays.items()},
            run=names.run,
            replay_seconds=self._replay_seconds,
        )

    def _remember(self, ledger_id: int, versions: Mapping[str, int]) -> None:
        """Note invalidations that are pending; when there are too many, drop the oldest and trust no snapshot."""
        expiry = time.monotonic() + SNAPSHOT_MS / 1000
        self.counters.pending += len(versions)
        for account_id, version in versions.items():
            name = (ledger_id, account_id)
            pending = self._pending.pop(name, (0, 0.0))
            if len(self._pending) >= PENDING_MAX:
                self._pending.popitem(last=False)
                self.counters.dropped += 1
                # By then whatever the dropped one was to remove has expired.
                self._distrusts_until = expiry
            self._pending[name] = (max(version, pending[0]), expiry)
        if self._remover is None or self._remover.done():
            self._remover = asyncio.get_running_loop().create_task(self._remove_pending())

    def _distrusts(self) -> bool:
        if time.monotonic() >= self._distrusts_until:
            self._distrusts_until = 0.0
        return bool(self._distrusts_until)

    async def _remove_pending(self) -> None:
        """Remove snapshots that are pending as soon as Redis is back, until all are removed or have expired."""
        while self._pending:
            expired = self._forget_expired()
            by_ledger: dict[int, dict[str, int]] = {}
            for (ledger_id, account_id), (version, _) in islice(self._pending.items(), PENDING_STEP_MAX):
                by_ledger.setdefault(ledger_id, {})[account_id] = version
            for ledger_id, versions in by_ledger.items():
                try:
                    await self._send(ledger_id, versions, {})
                except RedisAwayError:
                    # Of those that have expired there may be more than one step forgets: they wait for nobody.
                    await asyncio.sleep(0 if expired == PENDING_STEP_MAX else PENDING_RETRY_SECONDS)
                    break
                for account_id, version in versions.items():
                    self._forget((ledger_id, account_id), version)

    def _forget_expired(self) -> int:
        """Forget the first ones as far as they have expired, a bounded number; return how many."""
        now = time.monotonic()
        names = [name for name, (_, expiry) in islice(self._pending.items(), PENDING_STEP_MAX) if expiry <= now]
        for name in names:
            del self._pending[name]
        return len(names)

    def _forget(self, name: tuple[int, str], version: int) -> None:
        if self._pending.get(name, (version + 1, 0.0))[0] <= version:
            del self._pending[name]


def highest(pairs: Iterable[tuple[str, int | None]]) -> dict[str, int]:
    """Return the highest version of each account in *pairs*; None counts as nothing."""
    versions: dict[str, int] = {}
    for account_id, version in pairs:
        if version is not None and version > versions.get(account_id, 0):
            versions[account_id] = version
    return versions
