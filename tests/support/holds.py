"""Makes holds that are due soon, and shows which of them have expired."""

from tests.support.client import Client, new_key
from tests.support.postgres import administer


async def hold(client: Client, source: str, count: int = 1, destination: str = "shop") -> list[str]:
    """Make *count* holds of 1 cent, each for a second, and return their ids."""
    item = {"source": source, "destination": destination, "amount": 1, "currency": "EUR", "hold": True, "expires_in": 1}
    items = [{"key": new_key(), **item} for _ in range(count)]
    answer = await client.post("/v1/transfers/bulk", {"transfers": items})
    assert answer.status == 200, answer
    results = answer.json["results"]
    assert {result["status"] for result in results} == {201}, results
    return [result["transfer"]["id"] for result in results]


async def expiries(database_url: str) -> list[str]:
    """Return the ids of the holds that have an expiry, one for each expiry."""
    rows = await administer(database_url, "SELECT parent FROM tallystick.transfers WHERE kind = 'expiry'")
    return sorted(str(row["parent"]) for row in rows)


async def stored(database_url: str) -> int:
    """Return the sum of all held amounts that accounts store."""
    rows = await administer(
        database_url, "SELECT coalesce(sum(held_in + held_out), 0) AS held FROM tallystick.accounts"
    )
    return int(rows[0]["held"])
