"""Makes what every process of the service works with: database, cache, and the lanes that post and read."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from server.checked_settings import connect_redis, postgres_address
from server.events.feed import Feed
from server.http import render
from server.ledger.accounts import Accounts
from server.ledger.posting import PostingLane
from server.ledger.row_locks import RowLocks
from server.settings import Settings
from server.store.background import stop
from server.store.cache import Cache
from server.store.cache_counters import CacheCounters
from server.store.keyspace import Keyspace
from server.store.postgres import Database
from server.store.redis import Redis
from server.telemetry.failpoints import Failpoints
from server.telemetry.tallies import Tallies

# Seconds that running postings get to be resolved when the process stops: a little more than their own deadline.
DRAIN_SECONDS = 6.0

log = logging.getLogger(__name__)


class Books(NamedTuple):
    """The parts that every process of the service needs."""

    database: Database
    keyspace: Keyspace
    redis: Redis
    cache: Cache
    counters: CacheCounters
    rows: RowLocks
    accounts: Accounts
    posting: PostingLane
    feed: Feed
    failpoints: Failpoints
    tallies: Tallies


@asynccontextmanager
async def create_books(settings: Settings) -> AsyncIterator[Books]:
    """
    Make these parts, and close them in reverse: everything submitted is resolved before the pools close.

    Args:
        settings: With a `database_url` and a `redis_url`. The schema need not exist, and neither server need run.

    Raises:
        SettingsError: A setting has a valid form but cannot be used.
    """
    async with Database(
        postgres_address(settings),
        posting_connections=settings.posting_connections,
        reading_connections=settings.reading_connections,
        slow_seconds=settings.slow_ms / 1000,
    ) as database:
        tallies = Tallies()
        redis = connect_redis(settings, tallies)
        keyspace = Keyspace()
        database.watcher = keyspace
        await keyspace.learn(database)
        following = asyncio.create_task(keyspace.follow(database))
        counters = CacheCounters()
        cache = Cache(redis, keyspace, counters, settings.replay_seconds)
        rows = RowLocks(database)
        accounts = Accounts(database, cache, rows, render.account, tallies.batches["read"])
        failpoints = Failpoints(settings.failpoints)
        posting = PostingLane(database, cache, render.answer, rows, failpoints=failpoints, tallies=tallies)
        try:
            feed = Feed(database, cache, render.transfer_now, render.account)
            yield Books(database, keyspace, redis, cache, counters, rows, accounts, posting, feed, failpoints, tallies)
        finally:
            await _drain(posting, accounts)
            await stop(following)
            await rows.close()
            await cache.close()
            await redis.close()


async def _drain(posting: PostingLane, accounts: Accounts) -> None:
    """Return when everything submitted has been resolved, or after `DRAIN_SECONDS`."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await posting.drain()
            await accounts.drain()
    except TimeoutError:
        log.warning("stopping with unresolved postings: their callers retry with the same key")
