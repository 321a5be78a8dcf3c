"""Changes of one account leave connections for transfers, however many changes wait."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from tests.support.client import Client
from tests.support.locks import held, somebody_waits
from tests.support.service import in_process
from tests.support.waiting import until

# How many changes may wait, and a larger number that is sent.
WAITERS = 20
CROWD = 60


@pytest.mark.usefixtures("short_deadlines")
async def test_changes_of_a_locked_account_leave_room_for_transfers(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While many changes wait for a locked row, transfers of other accounts are posted, and changes past the limit get
    503.
    """
    monkeypatch.setattr("server.ledger.row_locks.ROW_WAITERS_MAX", WAITERS)
    async with in_process(database_url, redis_url) as service:
        client = await service.client("books")
        await client.fund("carol", 100)
        await client.open("bob")
        await client.open("alice")
        async with held(database_url, "alice"):
            crowd = [asyncio.create_task(change(client)) for _ in range(CROWD)]
            await until(partial(somebody_waits, database_url))
            statuses = [(await client.transfer("carol", "bob", 1)).status for _ in range(5)]
            assert statuses == [201] * 5
            done, _ = await asyncio.wait(crowd, return_when=asyncio.ALL_COMPLETED)
        answers = [task.result() for task in done]
        assert set(answers) <= {("overloaded", "not_applied"), ("unavailable", "not_applied")}
        assert Counter(answers)["overloaded", "not_applied"] >= 1
        assert (await client.send("PATCH", "/v1/accounts/alice", {"floor": -1})).status == 200


async def change(client: Client) -> tuple[str, str]:
    """Change alice and return the code and outcome of the refusal."""
    answer = await client.send("PATCH", "/v1/accounts/alice", {"metadata": {"a": "b"}})
    return answer.code, answer.json["outcome"]
