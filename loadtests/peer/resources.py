"""What the peer holds while it runs: pools of connections, made at its start and closed at its end."""

import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from loadtests.peer.tables import ApiKey, Base

DATABASE_VARIABLE = "PEER_DATABASE_URL"
REDIS_VARIABLE = "PEER_REDIS_URL"
# The API keys that it knows, as JSON: the secret, and the ledger and the limit of each ("10/second").
KEYS_VARIABLE = "PEER_KEYS"
# Connections to PostgreSQL, those that pgbench compares with and a few for reads; others wait for one.
DATABASE_CONNECTIONS = 20
# Seconds that a request waits for a connection before it fails: longer than any wait of a run that counts.
POOL_WAIT_SECONDS = 30.0
# Connections to Redis in each of its two pools; others wait for one.
REDIS_CONNECTIONS = 50


@dataclass(frozen=True)
class KeyInfo:
    """What is known of an API key, and the instant until which it is believed."""

    ledger: str
    limit: str
    until: float


@dataclass(frozen=True)
class Resources:
    """The parts of a running peer."""

    sessions: async_sessionmaker[AsyncSession]
    redis: Redis
    limiter: FixedWindowRateLimiter
    keys: dict[bytes, KeyInfo] = field(default_factory=dict)


def redis_pool(url: str) -> BlockingConnectionPool:
    """Return a pool whose callers wait when all connections are taken."""
    return BlockingConnectionPool.from_url(url, max_connections=REDIS_CONNECTIONS, timeout=POOL_WAIT_SECONDS)


@asynccontextmanager
async def open_resources() -> AsyncIterator[Resources]:
    """Connect to what the environment names; make the tables and the keys."""
    redis_url = os.environ[REDIS_VARIABLE]
    engine = create_async_engine(
        os.environ[DATABASE_VARIABLE],
        pool_size=DATABASE_CONNECTIONS,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
    )
    pools = [redis_pool(redis_url), redis_pool(redis_url)]
    # Only the pool counts: the storage wants an address all the same, of a form of its own.
    storage = RedisStorage("async+redis://unused:6379", implementation="redispy", connection_pool=pools[1])
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions() as session, session.begin():
            for secret, (ledger, limit) in json.loads(os.environ[KEYS_VARIABLE]).items():
                session.add(ApiKey(digest=hashlib.sha256(secret.encode()).digest(), ledger=ledger, limit=limit))
        yield Resources(
            sessions,
            Redis(connection_pool=pools[0]),
            FixedWindowRateLimiter(storage),
        )
    finally:
        await engine.dispose()
        for pool in pools:
            await pool.aclose()
