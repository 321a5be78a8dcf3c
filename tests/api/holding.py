"""Steps for tests of holds, captures, voids and reversals."""

from typing import Any

from tests.api.steps import bulk
from tests.support.client import Answer, Client, new_key

# The last part of the path of each kind of request that names a parent.
ACTIONS = {"capture": "capture", "void": "void", "reversal": "reverse"}
# An id that no transfer has.
NO_ID = "00000000-0000-7000-8000-000000000000"


async def hold(client: Client, amount: object, key: str | None = None, **fields: Any) -> Answer:
    """Reserve money from alice for bob unless told otherwise."""
    sides = (str(fields.pop("source", "alice")), str(fields.pop("destination", "bob")))
    return await client.transfer(*sides, amount, key, hold=True, **fields)


async def held(client: Client, amount: object, key: str | None = None, **fields: Any) -> str:
    """Reserve money and return the id of the hold."""
    answer = await hold(client, amount, key, **fields)
    assert answer.status == 201, answer
    return str(answer.json["id"])


async def paid(client: Client, amount: object, key: str | None = None, **fields: Any) -> str:
    """Move money from alice to bob unless told otherwise, and return the id of the transfer."""
    sides = (str(fields.pop("source", "alice")), str(fields.pop("destination", "bob")))
    answer = await client.transfer(*sides, amount, key, **fields)
    assert answer.status == 201, answer
    return str(answer.json["id"])


async def follow(client: Client, kind: str, parent: str, key: str | None = None, **fields: Any) -> Answer:
    """Capture, void or reverse a transfer, under a new key unless told otherwise."""
    path = f"/v1/transfers/{parent}/{ACTIONS[kind]}"
    return await client.send("POST", path, fields, headers={"Idempotency-Key": key or new_key()})


async def followed(client: Client, kind: str, parent: str, key: str | None = None, **fields: Any) -> Any:
    """Capture, void or reverse a transfer and return the new one."""
    answer = await follow(client, kind, parent, key, **fields)
    assert answer.status == 201, answer
    return answer.json


async def followed_in_every_way(client: Client, kind: str, parent: str, parent_key: str, **fields: Any) -> list[Any]:
    """
    Send the same follow-up under new keys: alone, in a bulk by id and by key, and in an atomic bulk.

    Returns:
        Status, code and pointer of each answer, up to the first 201.
    """
    single = await follow(client, kind, parent, **fields)
    told = [(single.status, single.json.get("code"), pointer_of(single.json))]
    for named in ({"parent": parent}, {"parent_key": parent_key}):
        for atomic in (False, True):
            if told[-1][0] == 201:
                return told
            [result] = await bulk(client, [{"key": new_key(), "kind": kind, **named, **fields}], atomic=atomic)
            document = result.get("problem", {})
            told.append((result["status"], document.get("code"), pointer_of(document)))
    return told


def pointer_of(document: dict[str, Any]) -> str | None:
    """Return the member that a problem points to; an item's pointer is returned as a single request's."""
    errors = document.get("errors")
    pointer: str | None = errors[0]["pointer"] if errors else document.get("pointer")
    return pointer.removeprefix("/transfers/0") if pointer else pointer


async def progress(client: Client, transfer: str) -> Any:
    """Return what became of a transfer: its hold (or None) without the expiry, and how much was reversed."""
    answer = await client.get(f"/v1/transfers/{transfer}")
    assert answer.status == 200, answer
    shown = answer.json["hold"]
    if shown is None:
        return None, answer.json["reversed"]
    assert set(shown) == {"state", "captured", "remaining", "expires_at"}
    return (shown["state"], shown["captured"], shown["remaining"]), answer.json["reversed"]


async def figures(client: Client, account: str) -> tuple[int, int, int, int]:
    """Return balance, held_in, held_out and available of an account, as one read shows them."""
    document = await client.account(account)
    assert document["available"] == document["balance"] - document["held_out"]
    return document["balance"], document["held_in"], document["held_out"], document["available"]


async def raw_follow(client: Client, kind: str, parent: str, raw: bytes, key: str) -> Answer:
    """Send a capture, void or reversal with exactly these bytes."""
    return await client.send(
        "POST", f"/v1/transfers/{parent}/{ACTIONS[kind]}", raw=raw, headers={"Idempotency-Key": key}
    )
