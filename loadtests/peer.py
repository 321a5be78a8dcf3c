"""
The same API written the usual way: FastAPI, SQLAlchemy, `limits` and redis-py, for `make bench` to compare with.

It keeps what matters: an API key looked up by its digest, a limit for each key, a row lock on both accounts, a unique
idempotency key in the transfer's own transaction, a cache in Redis that is invalidated after the commit. It leaves out
what the comparison does not touch: opening accounts, holds, bulk, statements, problem details, permanent refusals.
"""

import datetime
import hashlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, NamedTuple

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from limits import parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import BigInteger, DateTime, Index, Text, UniqueConstraint, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Connections to PostgreSQL: as many as pgbench has, and a few for reads; requests wait for a free one.
DATABASE_CONNECTIONS = 20
# Seconds that a request waits for a connection before it fails: longer than any wait in a valid run.
POOL_WAIT_SECONDS = 30.0
# Connections to Redis in each of its two pools; requests wait for a free one.
REDIS_CONNECTIONS = 50
# Seconds that a key is trusted without another look at the database, so a revoked key may work for so long.
KEY_SECONDS = 10.0
# Seconds that an account stays in Redis unless a transfer removes it: long, so that few reads miss.
SNAPSHOT_SECONDS = 60
JSON = "application/json"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z0-9]{3,8}$")]


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 -- of SQLAlchemy
        str: Text,
        int: BigInteger,
        datetime.datetime: DateTime(timezone=True),
    }


class ApiKey(Base):
    """An API key: the digest of its secret, the ledger that it opens, and its limit."""

    __tablename__ = "api_keys"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    ledger: Mapped[str]
    limit: Mapped[str]


class Account(Base):
    """A balance. Room on its page lets updates leave the index alone."""

    __tablename__ = "accounts"
    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)

    ledger: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str]
    balance: Mapped[int] = mapped_column(default=0)
    floor: Mapped[int | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.now())


class Transfer(Base):
    __tablename__ = "transfers"
    __table_args__ = (
        UniqueConstraint("ledger", "idempotency_key", name="transfers_idempotency_key_unique"),
        Index("transfers_source_index", "ledger", "source", "created_at"),
        Index("transfers_destination_index", "ledger", "destination", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    ledger: Mapped[str]
    idempotency_key: Mapped[str]
    fingerprint: Mapped[bytes]
    source: Mapped[str]
    destination: Mapped[str]
    amount: Mapped[int]
    currency: Mapped[str]
    source_balance: Mapped[int]
    destination_balance: Mapped[int]
    source_version: Mapped[int]
    destination_version: Mapped[int]
    created_at: Mapped[datetime.datetime]


class Message(BaseModel):
    """Base of all bodies: refuses unknown members, and can be made from rows."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class AccountOut(Message):
    id: Name
    currency: Currency
    floor: int | None = 0
    balance: int
    version: int
    created_at: datetime.datetime


class TransferIn(Message):
    source: Name
    destination: Name
    amount: Annotated[int, Field(strict=True, gt=0, lt=2**63)]
    currency: Currency


class TransferOut(TransferIn):
    id: uuid.UUID
    source_balance: int
    destination_balance: int
    source_version: int
    destination_version: int
    created_at: datetime.datetime


class Resources(NamedTuple):
    """The parts of a running peer; keys by their digests, each with the instant until which it is trusted."""

    sessions: async_sessionmaker[AsyncSession]
    redis: Redis
    limiter: FixedWindowRateLimiter
    keys: dict[bytes, tuple[ApiKey, float]]


@asynccontextmanager
async def lifespan(running: FastAPI) -> AsyncIterator[None]:
    """Connect to the servers that the environment names; create the tables and keys; close everything at the end."""
    engine = create_async_engine(
        os.environ["PEER_DATABASE_URL"], pool_size=DATABASE_CONNECTIONS, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS
    )
    # Requests wait while all connections are taken.
    options = {"max_connections": REDIS_CONNECTIONS, "timeout": POOL_WAIT_SECONDS}
    pools = [BlockingConnectionPool.from_url(os.environ["PEER_REDIS_URL"], **options) for _ in range(2)]
    # Only the pool is used; the storage still requires an address, in its own format.
    storage = RedisStorage("async+redis://unused:6379", implementation="redispy", connection_pool=pools[1])
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions() as session, session.begin():
            # The environment has JSON: for each key, the secret, the ledger and the limit ("10/second").
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
    # It is `async`, because FastAPI would otherwise run it in a thread at every request.
    found: Resources = request.app.state.resources
    return found


Parts = Annotated[Resources, Depends(_resources)]


async def _caller(parts: Parts, authorization: Annotated[str | None, Header()] = None) -> ApiKey:
    """Return the caller's key; refuse unknown keys, and keys over their limit."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise HTTPException(401, "an API key is needed")
    digest = hashlib.sha256(secret.encode()).digest()
    known, until = parts.keys.get(digest, (None, 0.0))
    if until < time.monotonic():
        async with parts.sessions() as session:
            known = await session.get(ApiKey, digest)
        if known is None:
            raise HTTPException(401, "this API key is not known")
        parts.keys[digest] = known, time.monotonic() + KEY_SECONDS
    assert known is not None
    limit = parse(known.limit)
    if not await parts.limiter.hit(limit, known.ledger):
        stats = await parts.limiter.get_window_stats(limit, known.ledger)
        wait = max(1, round(stats.reset_time - time.time() + 0.5))
        raise HTTPException(429, "the limit of this key is used up", {"Retry-After": str(wait)})
    return known


Caller = Annotated[ApiKey, Depends(_caller)]


app = FastAPI(lifespan=lifespan)


@app.get("/v1/accounts/{account}", response_model=AccountOut)
async def read_account(account: str, who: Caller, parts: Parts) -> Response:
    """Return an account, from Redis if it is there."""
    name = f"account:{who.ledger}:{account}"
    cached = await parts.redis.get(name)
    if cached is not None:
        return Response(cached, media_type=JSON)
    async with parts.sessions() as session:
        found = await session.get(Account, (who.ledger, account))
    if found is None:
        raise HTTPException(404, "this account does not exist")
    body = AccountOut.model_validate(found).model_dump_json()
    await parts.redis.set(name, body, ex=SNAPSHOT_SECONDS)
    return Response(body, media_type=JSON)


@app.post("/v1/transfers", status_code=201, response_model=TransferOut)
async def post_transfer(
    request: Request,
    asked: TransferIn,
    who: Caller,
    parts: Parts,
    idempotency_key: Annotated[str, Header(min_length=1, max_length=255)],
) -> Response:
    """Make a transfer once, however often the request is sent."""
    fingerprint = hashlib.sha256(b"POST /v1/transfers\n" + await request.body()).digest()
    made = Transfer(id=uuid.uuid4(), ledger=who.ledger, idempotency_key=idempotency_key, fingerprint=fingerprint)
    try:
        transfer = await _post(parts, made, asked)
    except IntegrityError:
        # A concurrent request has just used the key.
        async with parts.sessions() as session:
            other = await session.scalar(_of_same_key(made))
        if other is None:
            raise
        transfer = other
    if transfer.fingerprint != fingerprint:
        raise HTTPException(422, "this key was used for another request")
    headers = {"Idempotent-Replayed": "true"}
    if transfer is made:
        headers = {}
        await parts.redis.delete(*(f"account:{who.ledger}:{name}" for name in (asked.source, asked.destination)))
    return Response(TransferOut.model_validate(transfer).model_dump_json(), 201, headers, JSON)


def _of_same_key(transfer: Transfer) -> "select[tuple[Transfer]]":
    mine = Transfer.ledger == transfer.ledger, Transfer.idempotency_key == transfer.idempotency_key
    return select(Transfer).where(*mine)


async def _post(parts: Resources, made: Transfer, asked: TransferIn) -> Transfer:
    """Make a transfer in one transaction with both accounts locked, unless its key has one already; return it."""
    async with parts.sessions() as session, session.begin():
        known = await session.scalar(_of_same_key(made))
        if known is not None:
            return known
        # Rows are locked in the order of their ids, so that two transfers between the same accounts cannot deadlock.
        rows = await session.scalars(
            select(Account)
            .where(Account.ledger == made.ledger, Account.id.in_((asked.source, asked.destination)))
            .order_by(Account.id)
            .with_for_update()
        )
        accounts = {account.id: account for account in rows}
        source, destination = accounts.get(asked.source), accounts.get(asked.destination)
        if source is None or destination is None or source is destination:
            raise HTTPException(404, "an account does not exist")
        if source.currency != asked.currency or destination.currency != asked.currency:
            raise HTTPException(409, "the currencies differ")
        if source.floor is not None and source.balance - asked.amount < source.floor:
            raise HTTPException(409, "there is not enough money")
        for side, account, amount in (("source", source, -asked.amount), ("destination", destination, asked.amount)):
            account.balance += amount
            account.version += 1
            setattr(made, f"{side}_balance", account.balance)
            setattr(made, f"{side}_version", account.version)
        for name, value in asked.model_dump().items():
            setattr(made, name, value)
        made.created_at = datetime.datetime.now(datetime.UTC)
        session.add(made)
    return made
