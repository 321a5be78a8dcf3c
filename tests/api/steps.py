"""Steps that the contract tests share: orders, bulks, held locks, answers without their request id."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson

from tests.support.client import Answer, Client
from tests.support.service import Service


def order(source: str = "alice", destination: str = "bob", amount: object = 10, **fields: object) -> dict[str, object]:
    """Return the body of a transfer in EUR unless told otherwise."""
    return {"source": source, "destination": destination, "amount": amount, "currency": "EUR", **fields}


async def post(client: Client, body: object, key: str, path: str = "/v1/transfers") -> Answer:
    """Post *body* (bytes unchanged, anything else as JSON); *key* is the header's value as sent."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return await client.send("POST", path, raw=raw, headers={"Idempotency-Key": key})


async def bulk(client: Client, items: Sequence[Mapping[str, object]], *, atomic: bool = False) -> list[Any]:
    """Post a bulk and return its results."""
    answer = await client.post("/v1/transfers/bulk", {"atomic": atomic, "transfers": items})
    assert answer.status == 200, answer
    results: list[Any] = answer.json["results"]
    assert len(results) == len(items)
    return results


def codes(results: Sequence[Any]) -> list[str | int]:
    """Return the code of each result's problem, or its status if it has no problem."""
    return [result["problem"]["code"] if "problem" in result else result["status"] for result in results]


async def bound(client: Client, key: str) -> Answer:
    """Ask which request a key is bound to."""
    return await client.get("/v1/idempotency-keys/" + quote(key, safe=""))


def without_request_id(answer: Answer) -> tuple[int, dict[str, object]]:
    """Return status and members of a problem, without its request id."""
    document: dict[str, object] = answer.json
    assert document.pop("request_id")
    return answer.status, document


async def pages(client: Client, path: str, limit: int) -> list[list[Any]]:
    """Return all pages of a list, following its cursors."""
    joint = "" if path.endswith("?") else "&" if "?" in path else "?"
    found = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await client.get(f"{path}{joint}limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        assert answer.status == 200, answer
        found.append(answer.json["data"])
        cursor = answer.json["next_cursor"]
    return found


@asynccontextmanager
async def lock_held(service: Service, account: str) -> AsyncIterator[asyncpg.Connection]:
    """Lock the row of *account* in every ledger that has one, so that postings to it wait; yield the connection."""
    holder = await asyncpg.connect(service.database_url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM tallystick.accounts WHERE id = $1 FOR UPDATE", account)
            yield holder
    finally:
        await holder.close()


async def blocked(connection: asyncpg.Connection) -> list[int]:
    """Return the ids of the PostgreSQL processes that wait for a lock."""
    # Not pg_stat_activity: a transaction that has read it once sees the same rows until it ends.
    rows = await connection.fetch("SELECT DISTINCT pid FROM pg_locks WHERE NOT granted")
    return [row["pid"] for row in rows]
