"""Compares a sample of the served snapshots with Postgres, to prove that the cache is right."""

import asyncio
import logging
from collections.abc import Callable
from hashlib import sha256

from server.ledger.accounts import Account
from server.store.background import stop
from server.store.cache import Cache, Snapshot
from server.store.coalescer import QueueFullError
from server.store.errors import StoreError
from server.store.postgres import Database
from server.store.redis import RedisAwayError

# One in this many hits is compared, one at a time, so the extra reads of Postgres do not matter.
SAMPLE_EVERY = 1_000

log = logging.getLogger(__name__)


class SelfCheck:
    """
    Compares snapshots with the committed accounts, and counts and removes those that are wrong.

    A difference alone proves nothing: a write may have been committed in between whose invalidation is still in flight.
    A snapshot is wrong if it is still stored when every invalidation of that write has been answered or given up, if
    its version has never been committed, or if it differs at the same version.

    Args:
        body: Renders an account, as for the snapshots.

        invalidation_seconds: A time longer than an invalidation takes, retries included.
    """

    def __init__(
        self, database: Database, cache: Cache, body: Callable[[Account], bytes], invalidation_seconds: float
    ) -> None:
        self._database = database
        self._cache = cache
        self._body = body
        self._invalidation_seconds = invalidation_seconds
        self._left = SAMPLE_EVERY
        self._task: asyncio.Task[None] | None = None

    def sample(self, ledger_id: int, account_id: str, snapshot: Snapshot) -> None:
        """Count a snapshot that is about to be served, and compare one in SAMPLE_EVERY in the background."""
        self._left -= 1
        if self._left <= 0 and (self._task is None or self._task.done()):
            self._left = SAMPLE_EVERY
            self._task = asyncio.get_running_loop().create_task(self._check(ledger_id, account_id, snapshot))

    async def close(self) -> None:
        """Stop comparing."""
        await stop(self._task)

    async def _check(self, ledger_id: int, account_id: str, snapshot: Snapshot) -> None:
        counters = self._cache.counters
        try:
            committed = await self._committed(ledger_id, account_id)
            counters.checked += 1
            if committed == snapshot:
                return
            if committed.version > snapshot.version:
                await asyncio.sleep(self._invalidation_seconds)
                stored = await self._cache.stored(ledger_id, account_id)
                if stored is None or stored.version >= committed.version:
                    return
            counters.stale += 1
            log.error(
                "a wrong snapshot was served and is removed: ledger %d, account with the SHA-256 %s, version %d where "
                "%d is committed",
                # Names of accounts are not logged; docs/how-to/alerts.md says how to find the account by its digest.
                *(ledger_id, sha256(account_id.encode()).hexdigest(), snapshot.version, committed.version),
            )
            await self._cache.remove(ledger_id, account_id)
        except (RedisAwayError, StoreError, QueueFullError) as error:
            log.debug("a snapshot was not compared: %s", type(error).__name__)

    async def _committed(self, ledger_id: int, account_id: str) -> Snapshot:
        rows = await self._database.read("account_read_many", ledger_id, [account_id])
        account = Account(*rows[0].values()) if rows else None
        return Snapshot(0, b"") if account is None else Snapshot(account.version, self._body(account))
