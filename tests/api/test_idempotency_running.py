"""The idempotency table's rows about time: a first request that is still running, and one that the store dropped."""

import asyncio

import asyncpg
import pytest

from server.ledger import posting
from tests.api.steps import blocked, bound, lock_held, order, post
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.waiting import until


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has exactly what one order takes."""
    await client.fund("alice", 10)
    await client.open("bob")
    return client


async def _joined(service: Service, key: str, number: int) -> None:
    """Return once *number* requests of this process wait for another one with the same key."""
    assert service.app is not None
    pending = service.app.posting._pending

    async def all_wait() -> bool:
        return sum(len(first.waiters) for name, first in pending.items() if name[1] == key) == number

    await until(all_wait)


async def _blocked(holder: asyncpg.Connection, number: int) -> None:
    """Return once *number* postings wait for a lock."""

    async def all_wait() -> bool:
        return len(await blocked(holder)) == number

    await until(all_wait)


async def test_a_duplicate_of_a_running_request_waits_for_its_answer(funded: Client, service: Service) -> None:
    """Duplicates of a running request wait for its answer and get it as replays."""
    async with asyncio.TaskGroup() as group, lock_held(service, "alice") as holder:
        first = group.create_task(post(funded, order(), "running"))
        await _blocked(holder, 1)
        others = [group.create_task(post(funded, order(), "running")) for _ in range(5)]
        await _joined(service, "running", 5)
        assert not any(task.done() for task in (first, *others))
    answers = [task.result() for task in (first, *others)]
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert [answer.replayed for answer in answers] == [False] + [True] * 5
    assert await funded.balance("bob") == 10


async def test_a_duplicate_at_another_worker_waits_for_its_answer(funded: Client, service: Service) -> None:
    """Duplicates at two workers post one transfer, when the balance suffices for one, and one of them is a replay."""
    async with in_process(service.database_url, service.redis_url) as elsewhere, asyncio.TaskGroup() as group:
        there = Client(elsewhere.session, elsewhere.url, funded.token)
        assert await there.balance("alice") == 10
        async with lock_held(service, "alice") as holder:
            tasks = [group.create_task(post(client, order(), "two-workers")) for client in (funded, there)]
            await _blocked(holder, 2)
            assert not any(task.done() for task in tasks)
        answers = await asyncio.gather(*tasks)
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert sorted(answer.replayed for answer in answers) == [False, True]
    assert await funded.balance("bob") == 10


async def test_another_request_waits_for_the_running_one_too(funded: Client, service: Service) -> None:
    """Another request under the key of a running one waits, and is then told which request the key is bound to."""
    async with asyncio.TaskGroup() as group, lock_held(service, "alice") as holder:
        first = group.create_task(post(funded, order(), "contested"))
        await _blocked(holder, 1)
        other = group.create_task(post(funded, order(amount=9), "contested"))
        await _joined(service, "contested", 1)
    answer = other.result()
    assert (first.result().status, answer.status, answer.json["fields"]) == (201, 422, ["amount"])
    assert answer.json["transfer_id"] == first.result().json["id"]


async def test_a_bulk_waits_for_a_running_request_too(funded: Client, service: Service) -> None:
    """An item whose key a running single request uses waits for it and replays its answer."""
    async with asyncio.TaskGroup() as group, lock_held(service, "alice") as holder:
        first = group.create_task(post(funded, order(), "single"))
        await _blocked(holder, 1)
        items = [{"key": "single", **order()}]
        other = group.create_task(funded.post("/v1/transfers/bulk", {"transfers": items}))
        await _joined(service, "single", 1)
    result = other.result().json["results"][0]
    assert first.result().status == 201
    assert result == {"status": 201, "replayed": True, "transfer": first.result().json}
    assert await funded.balance("bob") == 10


async def test_a_key_that_stays_unresolved_is_in_use(
    funded: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first request is lost past its deadline, its duplicate is told to retry, and the retry succeeds."""
    # Long enough for the duplicate to arrive, and for one more attempt to post, which waits for the lock until then.
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 1.5)
    async with lock_held(service, "alice") as holder:
        first = asyncio.create_task(post(funded, order(), "lost"))
        await _blocked(holder, 1)
        other = asyncio.create_task(post(funded, order(), "lost"))
        await _joined(service, "lost", 1)
        for process in await blocked(holder):
            await holder.execute("SELECT pg_terminate_backend($1)", process)
        answers = await asyncio.gather(first, other)
    assert [(a.status, a.code) for a in answers] == [(503, "unavailable"), (409, "idempotency_key_in_use")]
    for answer in answers:
        assert (answer.json["outcome"], answer.json["retry"]) == ("unknown", "same_key")
        assert int(answer.headers["Retry-After"]) > 0
    monkeypatch.undo()
    again = await post(funded, order(), "lost")
    assert (again.status, again.replayed) == (201, False)
    assert await funded.balance("bob") == 10


async def test_what_the_store_had_no_time_for_binds_nothing(funded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 503 with `not_applied` nothing was done, and the same key can be used again."""
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 0.0)
    answer = await post(funded, order(), "later")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "same_key")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await bound(funded, "later")).status == 404
    monkeypatch.undo()
    again = await post(funded, order(), "later")
    assert (again.status, again.replayed) == (201, False)
