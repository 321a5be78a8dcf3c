"""Every key the service writes to Redis, and how long each lives."""

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
# What is written to find out whether a server takes writes again, and how long it stays.
PROBE: Final = b"tallystick:probe"
PROBE_MS: Final = 1

# Seconds between looks at the identity of the database: a promoted standby is noticed within this.
IDENTITY_SECONDS: Final = 1.0
# The same while it is in doubt: as often as a breaker probes.
DOUBT_SECONDS: Final = 0.25
# Bytes of the digest that tells runs apart. Only runs that follow one another within a snapshot's or a replay's life
# can be confused, so 48 bits are plenty.
RUN_BYTES: Final = 6

log = logging.getLogger(__name__)

# The server is there and does not say who it is: it is in recovery, or forbids the functions that tell.
_UNTOLD: Final = (
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
)


class Confirmation:
    """An unbroken time in which the database is known to be the one of the present run."""


class Keyspace:
    """
    Names in Redis, all of them below the identity of the database they are about, and the database's present run.

    Two services may share a Redis by mistake; a database may be restored, or a standby promoted that misses the last
    commits. Neither may ever be answered out of what another one stored.

    Limits belong to the database. Snapshots and replays belong to a *run* of it: from a start of the server, on one
    timeline, with the tables it has. Nothing can be put in a database's place within a run, so what was stored in the
    present run holds. Whenever a connection is lost the run is in doubt, until a connection tells that it still lasts.

    All names of a ledger share a slot of a cluster (the tag in braces), so one script may use them together.

    Attributes:
        run: The name of the run that was met last; empty before the first.

        confirmation: Of that run; None while it is in doubt. What was read or written between two looks that found the
            same confirmation was read or written in this run.
    """

    def __init__(self) -> None:
        self._database = b""
        self.run = b""
        self.confirmation: Confirmation | None = None
        self._doubted = asyncio.Event()
        # Counts the doubts: what was asked before one does not end it.
        self._doubts = 0

    @property
    def known(self) -> bool:
        """Whether the identity is known; until then there are no names, and Redis is not used."""
        return bool(self._database)

    def bucket(self, ledger_id: int, name: str) -> bytes:
        """Return the key of a token bucket."""
        return b"%b:b:{%x}:%b" % (self._database, ledger_id, name.encode())

    def addresses(self, family: str) -> tuple[bytes, bytes]:
        """Return the keys of all buckets of a family that are counted by network address, and of their index."""
        name = b"%b:a:{%b}" % (self._database, family.encode())
        return name, name + b":full"

    def snapshot(self, ledger_id: int, account_id: str) -> bytes:
        """Return the key of an account's snapshot; its value names the run it was read in."""
        return b"%b:s:{%x}:%b" % (self._database, ledger_id, account_id.encode())

    def replay(self, ledger_id: int, key: str) -> bytes:
        """Return the key of a finished write's answer; it holds in the run it was given in."""
        return b"%b:r:{%x}:%b:%b" % (self._database, ledger_id, key.encode(), self.run)

    def doubt(self, *_: object) -> None:
        """Take note that the database may have been replaced: a connection was lost, or it does not answer."""
        self.confirmation = None
        self._doubts += 1
        self._doubted.set()

    async def meet(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """
        Ask a new connection which database and run it leads to; True when it is another one than before.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError: The connection does not work.
        """
        # From here on, so that what it tells holds until its end is told.
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
        """Ask the database who it is; False when it does not say."""
        run, doubts = self.run, self._doubts
        try:
            row = (await database.read_once("identity_read"))[0]
        except (StoreError, QueueFullError, DatabaseError) as error:
            # Where all connections are at work, none was lost.
            if not isinstance(error, NoneFreeError):
                self.confirmation = None
            return False
        # A connection made meanwhile may have met another run: it is the newer one.
        if self.run == run and self._note(row, doubts):
            await database.expire()
        return True

    async def follow(self, database: Database) -> None:
        """Go on asking, for ever, and at once when there is a doubt."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(DOUBT_SECONDS if self.confirmation is None else IDENTITY_SECONDS):
                    await self._doubted.wait()
            self._doubted.clear()
            await self.learn(database)

    def _note(self, row: asyncpg.Record, doubts: int) -> bool:
        """Take note of an identity, asked for when there had been so many doubts; True when it is another one."""
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
