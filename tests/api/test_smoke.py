"""A transfer, its replay, and the money where it belongs."""

from tests.support.client import Client


async def test_a_transfer_moves_money_once(client: Client) -> None:
    """The same key twice moves the money once and answers the same bytes."""
    await client.fund("alice", 100)
    await client.open("bob")
    first = await client.transfer("alice", "bob", 60, "pay-1")
    second = await client.transfer("alice", "bob", 60, "pay-1")
    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    assert not first.replayed
    assert second.replayed
    assert await client.balance("bob") == 60
