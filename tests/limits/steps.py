"""Keys with limits, what answers say of them, and what stands in Redis about them."""

from collections.abc import Collection
from typing import Any

from server.gate.key_store import KeyChange, KeyLimit, StoredKey, change_key, ledger_id
from server.store.postgres import Database
from tests.support.client import Answer, Client
from tests.support.service import Service

DAY = 86_400


def once(burst: int) -> KeyLimit:
    """Return a limit that admits so many requests, and in a test's time no more."""
    return KeyLimit(1, DAY, burst)


async def limited(service: Service, ledger: str, limit: KeyLimit, role: str = "admin") -> Client:
    """Return a client whose key has a limit of its own."""
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
    """Give a key other limits, those that are named."""
    number = await ledger_id(database, ledger)
    assert number is not None
    return await change_key(database, number, public_id, KeyChange(named, limit))


def left(answer: Answer) -> int:
    """Return how many requests the answer says are left."""
    name, rest, _ = answer.headers["RateLimit"].split(";")
    assert name == '"default"'
    return int(rest.removeprefix("r="))


async def bucket(redis: Any, client: Client) -> bytes:
    """Return the name in Redis of a key's bucket."""
    (name,) = [name async for name in redis.scan_iter(f"*:b:*:k:{key_id(client)}")]
    assert isinstance(name, bytes)
    return name


async def state(redis: Any, client: Client) -> tuple[int, int, int]:
    """Return the units in a key's bucket, when they were counted, and the price of a token."""
    units, since, price = (await redis.get(await bucket(redis, client))).split(b":")
    return int(units), int(since), int(price)
