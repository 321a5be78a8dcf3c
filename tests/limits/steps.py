"""Keys with limits, and what answers and Redis say about them."""

from collections.abc import Collection
from typing import Any

from server.gate.key_store import KeyChange, KeyLimit, StoredKey, change_key, ledger_id
from server.store.postgres import Database
from tests.support.client import Answer, Client
from tests.support.service import Service

DAY = 86_400


def once(burst: int) -> KeyLimit:
    """Return a limit that admits this many requests, and no more during a test."""
    return KeyLimit(1, DAY, burst)


async def limited(service: Service, ledger: str, limit: KeyLimit, role: str = "admin") -> Client:
    """Return a client whose key has its own limit."""
    return await service.client(ledger, role, limit)


def key_id(client: Client) -> str:
    """Return the public id of a client's key."""
    assert client.token is not None
    return client.token.split("_")[2]


async def limit_key(
    database: Database,
    ledger: str,
    public_id: str,
    limit: KeyLimit,
    named: Collection[str] = ("rate", "burst", "concurrency"),
) -> StoredKey:
    """Change a key's named limits."""
    number = await ledger_id(database, ledger)
    assert number is not None
    return await change_key(database, number, public_id, KeyChange(named, limit))


def left(answer: Answer) -> int:
    """Return how many requests are left by the answer."""
    name, rest, _ = answer.headers["RateLimit"].split(";")
    assert name == '"default"'
    return int(rest.removeprefix("r="))


async def bucket(redis: Any, client: Client) -> bytes:
    """Return the name of a key's bucket in Redis."""
    (name,) = [name async for name in redis.scan_iter(f"*:b:*:k:{key_id(client)}")]
    assert isinstance(name, bytes)
    return name


async def state(redis: Any, client: Client) -> tuple[int, int, int]:
    """Return the units in a key's bucket, when they were counted, and the price of a token in units."""
    units, since, price = (await redis.get(await bucket(redis, client))).split(b":")
    return int(units), int(since), int(price)
