"""A database in which real traffic has left every kind of row that an audit must take for right."""

from tests.audit.hold_traffic import play_holds
from tests.support.client import Client, new_key
from tests.support.clock import BooksClock
from tests.support.service import in_process

LEDGER, NEIGHBOUR = "books", "neighbour"
# Of the first ledger.
ACCOUNTS = 16
EDGE = 2**63 - 1


async def play(database_url: str) -> None:
    """Post, hold, refuse, repeat and change limits in two ledgers; nobody is connected afterwards."""
    async with in_process(database_url) as service:
        client = await service.client(LEDGER)
        await _play_books(client)
        await (await service.client(NEIGHBOUR)).fund("alice", 100)
        await play_holds(service, LEDGER, client, BooksClock(database_url, None))


async def _play_books(client: Client) -> None:
    await client.fund("alice", 500)
    await client.open("bob", ceiling=300)
    await client.open("carol", floor=-50)
    await client.open("idle")
    await client.open("spare")
    for number, amount in enumerate((100, 40, 60), 1):
        assert (await client.transfer("alice", "bob", amount, f"pay-{number}")).status == 201
        assert (await client.transfer("bob", "carol", amount // 2, f"pass-{number}")).status == 201
    assert (await client.transfer("alice", "bob", 100, "pay-1")).replayed
    assert (await client.transfer("carol", "alice", 1000, "too-much")).code == "insufficient_funds"
    assert (await client.transfer("alice", "bob", 250, "too-high")).code == "ceiling_exceeded"
    assert (await client.transfer("alice", "nobody", 1, "nowhere")).code == "account_not_found"
    # Limits that earlier entries break, and a change that leaves a gap between versions.
    assert (await client.send("PATCH", "/v1/accounts/bob", {"ceiling": 10, "floor": None})).status == 200
    assert (await client.transfer("bob", "alice", 95, "back")).status == 201
    assert (await client.send("PATCH", "/v1/accounts/carol", {"floor": 5000})).status == 200
    assert (await client.send("PATCH", "/v1/accounts/alice", {"metadata": {"a": "b"}})).status == 200
    for atomic, amount in ((True, 5), (True, 5000), (False, 7)):
        legs = [("alice", "spare", amount), ("spare", "idle2", 1)] if amount == 5000 else [("alice", "spare", amount)]
        body = {
            "atomic": atomic,
            "transfers": [
                {"key": new_key(), "source": s, "destination": d, "amount": a, "currency": "EUR"} for s, d, a in legs
            ],
        }
        assert (await client.post("/v1/transfers/bulk", body)).status == 200
    # The widest numbers there are.
    await client.open("mint", "USD", floor=None)
    await client.open("vault", "USD")
    assert (await client.transfer("mint", "vault", EDGE, "edge", currency="USD")).status == 201
    assert (await client.transfer("vault", "mint", EDGE, "edge-back", currency="USD")).status == 201
    assert (await client.transfer("alice", "carol", 1, "last")).status == 201
