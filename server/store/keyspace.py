"""Names every key that the service writes to Redis, and how long each lives."""

import asyncio
import logging
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import asyncpg

from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, NoneFreeError, StoreError
from server.store.postgres import Database
from server.store.sql import query

# Milliseconds a snapshot may be served: the bound on how stale a read can be when a worker that posts cannot reach
# a Redis that others still can, and the time for which nothing is read from a Redis just started.
SNAPSHOT_MS: Final = 10_000
# Milliseconds that "there is no such account" is remembered.
ABSENCE_MS: Final = 2_000
# Milliseconds a lease lasts: longer than any read of Postgres that is still worth storing.
LEASE_MS: Final = 2_000
# The key that a probe writes to find out whether a server takes writes again, and the key's life.
PROBE: Final = b"tallystick:probe"
PROBE_MS: Final = 1

# Seconds between looks at the identity of the database: a promoted standby is noticed within this.
IDENTITY_SECONDS: Final = 1.0
# The same while the run is in doubt: as often as a breaker probes.
DOUBT_SECONDS: Final = 0.25
# Bytes of the digest that tells runs apart. Only runs that follow one another within a snapshot's or a replay's life
# can be confused, so 48 bits are plenty.
RUN_BYTES: Final = 6

log = logging.getLogger(__name__)

# Errors of a server that answers but does not tell its identity: it is in recovery, or forbids the needed functions.
_UNTOLD: Final = (
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
)


class Confirmation:
    """Stands for an unbroken period in which the database is known to be in its present run."""


class Keyspace:
    """
    Names the keys in Redis, all of them under the identity of their database, and tracks the database's present run.

    Two services may share a Redis by mistake; a database may be restored, or a standby promoted that misses the last
    commits. No database's requests may ever be answered from what another one stored.

    Limits belong to the database. Snapshots and replays belong to a *run* of it: one start of the server, one timeline
    and the same tables. A database cannot be replaced within a run, so what was stored in the present run is valid.
    Whenever a connection is lost, the run is in doubt until a connection confirms that it still lasts.

    All names of a ledger share a slot of a cluster (the tag in braces), so one script may use them together.

    Attributes:
        run: The name of the run that was met last; empty before the first.

        confirmation: Confirmation of that run; None while the run is in doubt. If it is the same before and after a
            read or write, the read or write happened in this run.
    """

    def __init__(self) -> None:
        self._database = b""
        self.run = b""
        self.confirmation: Confirmation | None = None
        self._doubted = asyncio.Event()
        # Number of doubts so far. An answer to a question asked before the last doubt does not end it.
        self._doubts = 0

    @property
    def known(self) -> bool:
        """Whether the identity is known; until then there are no names, and Redis is not used."""
        return bool(self._database)

    def bucket(self, ledger_id: int, name: str) -> bytes:
        """Return the key of a token bucket."""
        return b"%b:b:{%x}:%b" % (self._database, ledger_id, name.encode())

    def addresses(self, family: str) -> tuple[bytes, bytes]:
        """Return the key of all buckets of a family that are counted by network address, and the key of their index."""
        name = b"%b:a:{%b}" % (self._database, family.encode())
        return name, name + b":full"

    def snapshot(self, ledger_id: int, account_id: str) -> bytes:
        """Return the key of an account's snapshot; its value names the run in which it was read."""
        return b"%b:s:{%x}:%b" % (self._database, ledger_id, account_id.encode())

    def replay(self, ledger_id: int, key: str) -> bytes:
        """Return the key of a finished write's answer, which is valid only in the run in which it was given."""
        return b"%b:r:{%x}:%b:%b" % (self._database, ledger_id, key.encode(), self.run)

    def doubt(self, *_: object) -> None:
        """Record that the database may have been replaced: a connection was lost, or it does not answer."""
        self.confirmation = None
        self._doubts += 1
        self._doubted.set()

    async def meet(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """
        Ask a new connection which database and run it leads to; return True if they have changed.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError: The connection does not work.
        """
        # Before the question, so that the answer holds until the connection's end is reported.
        connection.add_termination_listener(self.doubt)
        doubts = self._doubts
        try:
            row = await connection.fetchrow(query("identity_read"))
        except _UNTOLD as error:
            log.warning("postgres does not say which run this is: %s", type(error).__name__)
            self.doubt()
            return False
        assert row is not None, "it always yields one row"
        return self._note(row, doubts)

    async def learn(self, database: Database) -> bool:
        """Ask the database for its identity; return False when it does not tell."""
        run, doubts = self.run, self._doubts
        try:
            row = (await database.read_once("identity_read"))[0]
        except (StoreError, QueueFullError, DatabaseError) as error:
            # If all connections were in use, none was lost.
            if not isinstance(error, NoneFreeError):
                self.confirmation = None
            return False
        # A connection made in the meantime may have met another run, which is newer.
        if self.run == run and self._note(row, doubts):
            await database.expire()
        return True

    async def follow(self, database: Database) -> None:
        """Keep asking for the identity, for ever, and at once when there is a doubt."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(DOUBT_SECONDS if self.confirmation is None else IDENTITY_SECONDS):
                    await self._doubted.wait()
            self._doubted.clear()
            await self.learn(database)

    def _note(self, row: asyncpg.Record, doubts: int) -> bool:
        """Record an identity that was asked for after *doubts* doubts; return True if it has changed."""
        database = row["database"].encode()
        run = blake2b(row["run"].encode(), digest_size=RUN_BYTES).hexdigest().encode()
        changed = self.known and (database, run) != (self._database, self.run)
        if changed:
            log.warning("postgres was restarted, restored or replaced: what is cached is not used any more")
        if self._doubts != doubts:
            self.confirmation = None
        elif changed or self.confirmation is None:
            self.confirmation = Confirmation()
        self._database, self.run = database, run
        return changed
