"""Holds that are due soon, and what has been swept of them."""

from tests.support.client import Client, new_key
from tests.support.postgres import administer


async def hold(client: Client, source: str, count: int = 1, destination: str = "shop") -> list[str]:
    """Hold 1 cent so many times, each for a second, and return the ids."""
    item = {"source": source, "destination": destination, "amount": 1, "currency": "EUR", "hold": True, "expires_in": 1}
    items = [{"key": new_key(), **item} for _ in range(count)]
    answer = await client.post("/v1/transfers/bulk", {"transfers": items})
    assert answer.status == 200, answer
    results = answer.json["results"]
    assert {result["status"] for result in results} == {201}, results
    return [result["transfer"]["id"] for result in results]


async def expiries(database_url: str) -> list[str]:
    """Return the holds that have an expiry, one entry for each expiry."""
    rows = await administer(database_url, "SELECT parent FROM tallystick.transfers WHERE kind = 'expiry'")
    return sorted(str(row["parent"]) for row in rows)


async def stored(database_url: str) -> int:
    """Return the sum of all that is stored as held."""
    rows = await administer(
        database_url, "SELECT coalesce(sum(held_in + held_out), 0) AS held FROM tallystick.accounts"
    )
    return int(rows[0]["held"])
