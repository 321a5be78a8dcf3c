"""Every key the service writes to Redis, and how long each lives."""

import asyncio
import logging
from typing import Final

import asyncpg

from server.store.coalescer import QueueFullError
from server.store.errors import StoreError
from server.store.postgres import Database

# Milliseconds a snapshot may be served: the bound on how stale a read can be when a worker that posts cannot reach
# a Redis that others still can, and the time for which nothing is read from a Redis just started.
SNAPSHOT_MS: Final = 10_000
# Milliseconds that "there is no such account" is remembered.
ABSENCE_MS: Final = 2_000
# Milliseconds a lease lasts: longer than any read of Postgres that is still worth storing.
LEASE_MS: Final = 2_000
# Seconds a finished write can be answered again without Postgres, which remembers it for ever.
REPLAY_SECONDS: Final = 24 * 3600
# What is written to find out whether a server takes writes again, and how long it stays.
PROBE: Final = b"tallystick:probe"
PROBE_MS: Final = 1

# Seconds between looks at the identity of the database: a promoted standby is noticed within this.
IDENTITY_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class Keyspace:
    """
    Names in Redis, all of them below the identity of the database they are about.

    Two services may share a Redis by mistake; a database may be restored, or a standby promoted that misses the last
    commits. Neither may ever be answered out of what another one stored.
    """

    def __init__(self) -> None:
        self._database = b""
        self._timeline = b""

    @property
    def known(self) -> bool:
        """Whether the identity is known; until then there are no names, and Redis is not used."""
        return bool(self._database)

    def bucket(self, ledger_id: int, name: str) -> bytes:
        """Return the key of a token bucket; all buckets of a ledger share a slot of a cluster."""
        return b"%b:b:{%x}:%b" % (self._database, ledger_id, name.encode())

    def failures(self, address: str) -> bytes:
        """Return the key of the bucket of failed authentications from a network address."""
        return b"%b:a:{%b}" % (self._database, address.encode())

    def snapshot(self, ledger_id: int, account_id: str) -> bytes:
        """Return the key of an account's snapshot."""
        return b"%b:s:{%x:%b}" % (self._database, ledger_id, account_id.encode())

    def replay(self, ledger_id: int, key: str) -> bytes:
        """Return the key of a finished write's answer; it holds on the timeline it was given on."""
        return b"%b:r:{%x:%b}:%b" % (self._database, ledger_id, key.encode(), self._timeline)

    async def learn(self, database: Database) -> bool:
        """Ask the database who it is; False when it does not say."""
        try:
            row = (await database.read_once("identity_read"))[0]
        except (StoreError, QueueFullError, asyncpg.PostgresError, OSError):
            return False
        self._database = row["database"].encode()
        self._timeline = row["timeline"].encode()
        return True

    async def follow(self, database: Database) -> None:
        """Go on asking, for ever."""
        while True:
            await asyncio.sleep(IDENTITY_SECONDS)
            await self.learn(database)
