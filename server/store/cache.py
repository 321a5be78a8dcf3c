"""
Account snapshots with leases, after Nishtala et al., "Scaling Memcache at Facebook" (2013), with versions.

One key an account holds a snapshot (`S<version> <body>`), a lease (`L<token>:<least version>`), or nothing. A read
that finds nothing takes the lease, reads Postgres and may store what it read by presenting the token. Whoever is
about to show an account at a version that did not come from here says so first (`seen`): an older snapshot goes, and
a lease takes no older fill. A Redis just started is given no lease and read by nobody (`redis_connections.py`). That
is the whole protocol; `tests/cache/` searches every interleaving of it.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from server.store.cache_counters import CacheCounters
from server.store.keyspace import LEASE_MS, SNAPSHOT_MS, Keyspace
from server.store.redis import Redis, RedisAwayError
from server.store.scripts import script

# Accounts whose outdated snapshots could not be removed, remembered until they can or until they have expired.
OWED_MAX = 100_000
# Seconds between attempts to pay them.
OWED_RETRY_SECONDS = 0.1

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

    def packed(self) -> bytes:
        """Return it as the bytes that are stored."""
        return b"S%d %b" % (self.version, self.body)

    @classmethod
    def unpacked(cls, value: bytes) -> "Snapshot | None":
        """Return what `packed` made; None for anything else."""
        version, space, body = value.partition(b" ")
        if not space or not version[1:].isdigit():
            return None
        return cls(int(version[1:]), body)


class Cache:
    """
    What this process says to the cache and owes to it.

    Args:
        redis: Where it is.

        keyspace: Names in it.

        counters: Are kept up to date.
    """

    def __init__(self, redis: Redis, keyspace: Keyspace, counters: CacheCounters) -> None:
        self._redis = redis
        self._keyspace = keyspace
        # Snapshots older than these versions may still be there: (version, expiry of any such snapshot).
        self._owed: dict[tuple[int, str], tuple[int, float]] = {}
        self._payer: asyncio.Task[None] | None = None
        self.counters = counters

    def owes(self, ledger_id: int, account_id: str) -> bool:
        """Whether a snapshot of the account may be older than what this process has shown."""
        return bool(self._owed) and (ledger_id, account_id) in self._owed

    async def seen(self, ledger_id: int, versions: Mapping[str, int]) -> None:
        """Make sure that no snapshot of these accounts older than these versions is served after this returns."""
        await self.settle(ledger_id, versions, {})

    async def settle(self, ledger_id: int, versions: Mapping[str, int], replays: Mapping[str, Replay]) -> None:
        """
        Do what `seen` does, and store the answers of finished writes by idempotency key.

        When Redis is away this returns all the same: what could not be removed is owed, and this process does not
        read it. Other processes may, for as long as a snapshot lives, if they reach the Redis that holds it.
        """
        if not versions and not replays:
            return
        try:
            await self._settle(ledger_id, versions, replays)
        except RedisAwayError:
            self._owe(ledger_id, versions)

    async def fill(self, ledger_id: int, account_id: str, token: bytes, snapshot: Snapshot, life_ms: int) -> None:
        """
        Store a snapshot under a lease, unless something newer has been seen; returns when that is decided.

        Args:
            life_ms: Milliseconds that it lives, from when the lease was taken.
        """
        key = self._keyspace.snapshot(ledger_id, account_id)
        command = script("fill").call([key], token, snapshot.version, snapshot.packed(), life_ms, LEASE_MS)
        try:
            stored = await self._redis.submit(key, command, trusting=True)
        except RedisAwayError:
            self._owe(ledger_id, {account_id: snapshot.version})
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
        found = await self._redis.submit(key, ("GET", key), trusting=True)
        return Snapshot.unpacked(found) if found is not None and found.startswith(b"S") else None

    async def remove(self, ledger_id: int, account_id: str) -> None:
        """
        Remove whatever is stored about an account.

        Raises:
            RedisAwayError: It may still be there.
        """
        key = self._keyspace.snapshot(ledger_id, account_id)
        await self._redis.submit(key, ("DEL", key))

    async def close(self) -> None:
        """Stop paying."""
        log.info("cache: %s", self.counters)
        if self._payer is not None:
            self._payer.cancel()
            await asyncio.gather(self._payer, return_exceptions=True)

    async def _settle(self, ledger_id: int, versions: Mapping[str, int], replays: Mapping[str, Replay]) -> None:
        names = self._keyspace
        if not names.known:
            raise RedisAwayError
        await self._redis.settle(
            {names.snapshot(ledger_id, account_id): version for account_id, version in versions.items()},
            {names.replay(ledger_id, key): replay.packed() for key, replay in replays.items()},
        )

    def _owe(self, ledger_id: int, versions: Mapping[str, int]) -> None:
        expiry = time.monotonic() + SNAPSHOT_MS / 1000
        self.counters.owed += len(versions)
        for account_id, version in versions.items():
            name = (ledger_id, account_id)
            owed = self._owed.pop(name, (0, 0.0))
            if len(self._owed) >= OWED_MAX:
                del self._owed[next(iter(self._owed))]
            self._owed[name] = (max(version, owed[0]), expiry)
        if self._payer is None or self._payer.done():
            self._payer = asyncio.get_running_loop().create_task(self._pay())

    async def _pay(self) -> None:
        """Remove what is owed as soon as Redis is back, until all of it is paid or has expired by itself."""
        while self._owed:
            now = time.monotonic()
            for name, (version, expiry) in list(self._owed.items()):
                if expiry <= now:
                    self._forget(name, version)
            by_ledger: dict[int, dict[str, int]] = {}
            for (ledger_id, account_id), (version, _) in list(self._owed.items())[:1_000]:
                by_ledger.setdefault(ledger_id, {})[account_id] = version
            for ledger_id, versions in by_ledger.items():
                try:
                    await self._settle(ledger_id, versions, {})
                except RedisAwayError:
                    await asyncio.sleep(OWED_RETRY_SECONDS)
                    break
                for account_id, version in versions.items():
                    self._forget((ledger_id, account_id), version)

    def _forget(self, name: tuple[int, str], version: int) -> None:
        if self._owed.get(name, (version + 1, 0.0))[0] <= version:
            del self._owed[name]


def highest(pairs: Iterable[tuple[str, int | None]]) -> dict[str, int]:
    """Return the highest version of each account in *pairs*; None counts as nothing."""
    versions: dict[str, int] = {}
    for account_id, version in pairs:
        if version is not None and version > versions.get(account_id, 0):
            versions[account_id] = version
    return versions
