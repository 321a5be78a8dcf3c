"""What the peer holds while it runs, made at its start and closed at its end; and who asks, and whether too much."""

import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, NamedTuple

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from limits import parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from loadtests.peer.tables import ApiKey, Base

# Connections to PostgreSQL, those that pgbench compares with and a few for reads; others wait for one.
DATABASE_CONNECTIONS = 20
# Seconds that a request waits for a connection before it fails: longer than any wait of a run that counts.
POOL_WAIT_SECONDS = 30.0
# Connections to Redis in each of its two pools; others wait for one.
REDIS_CONNECTIONS = 50
# Seconds that a key is believed without asking the database again: how long a revoked one works on.
KEY_SECONDS = 10.0


class KeyInfo(NamedTuple):
    """What is known of an API key, and the instant until which it is believed."""

    ledger: str
    limit: str
    until: float


class Resources(NamedTuple):
    """The parts of a running peer; keys by their digests."""

    sessions: async_sessionmaker[AsyncSession]
    redis: Redis
    limiter: FixedWindowRateLimiter
    keys: dict[bytes, KeyInfo]


@asynccontextmanager
async def lifespan(running: FastAPI) -> AsyncIterator[None]:
    """Connect to what the environment names; make the tables and the keys; hold all of it while the peer runs."""
    engine = create_async_engine(
        os.environ["PEER_DATABASE_URL"], pool_size=DATABASE_CONNECTIONS, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS
    )
    # Their callers wait when all connections are taken.
    options = {"max_connections": REDIS_CONNECTIONS, "timeout": POOL_WAIT_SECONDS}
    pools = [BlockingConnectionPool.from_url(os.environ["PEER_REDIS_URL"], **options) for _ in range(2)]
    # Only the pool counts: the storage wants an address all the same, of a form of its own.
    storage = RedisStorage("async+redis://unused:6379", implementation="redispy", connection_pool=pools[1])
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions() as session, session.begin():
            # As JSON: the secret, and the ledger and the limit of each ("10/second").
            for secret, (ledger, limit) in json.loads(os.environ["PEER_KEYS"]).items():
                session.add(ApiKey(digest=hashlib.sha256(secret.encode()).digest(), ledger=ledger, limit=limit))
        redis = Redis(connection_pool=pools[0])
        running.state.resources = Resources(sessions, redis, FixedWindowRateLimiter(storage), {})
        yield
    finally:
        await engine.dispose()
        for pool in pools:
            await pool.aclose()


async def _resources(request: Request) -> Resources:
    # `async`, or FastAPI would ask a thread for it at every request.
    found: Resources = request.app.state.resources
    return found


Parts = Annotated[Resources, Depends(_resources)]


async def _caller(parts: Parts, authorization: Annotated[str | None, Header()] = None) -> KeyInfo:
    """Return who asks, unless it is nobody known or somebody who has asked too often."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise HTTPException(401, "an API key is needed")
    digest = hashlib.sha256(secret.encode()).digest()
    known = parts.keys.get(digest)
    if known is None or known.until < time.monotonic():
        known = await _look_up(parts, digest)
    limit = parse(known.limit)
    if not await parts.limiter.hit(limit, known.ledger):
        stats = await parts.limiter.get_window_stats(limit, known.ledger)
        wait = max(1, round(stats.reset_time - time.time() + 0.5))
        raise HTTPException(429, "the limit of this key is used up", {"Retry-After": str(wait)})
    return known


Caller = Annotated[KeyInfo, Depends(_caller)]


async def _look_up(parts: Resources, digest: bytes) -> KeyInfo:
    async with parts.sessions() as session:
        row = await session.scalar(select(ApiKey).where(ApiKey.digest == digest))
    if row is None:
        raise HTTPException(401, "this API key is not known")
    known = parts.keys[digest] = KeyInfo(row.ledger, row.limit, time.monotonic() + KEY_SECONDS)
    return known
