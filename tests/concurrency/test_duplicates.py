"""Requests with the same key from many callers at once have one effect and one answer."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from server.ledger.sending import BatchSender
from tests.concurrency.crowd import Crowd, definite
from tests.support.client import Answer, Client
from tests.support.locks import inserts_held, somebody_waits
from tests.support.service import Service
from tests.support.waiting import until


async def test_two_hundred_identical_requests_have_one_effect(crowd: Crowd) -> None:
    """All two hundred callers get the same bytes, one of them as the first answer."""
    await crowd.first.fund("alice", 1_000)
    await crowd.first.open("bob")
    answers = await crowd.all_at_once([("same", "alice", "bob", 7)] * 200)
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert sum(not answer.replayed for answer in answers) == 1
    assert await crowd.first.balance("bob") == 7
    await crowd.history.check()


async def test_identical_requests_that_are_refused_hear_one_refusal(crowd: Crowd) -> None:
    """
    A refusal is bound to the key like a success: all callers get the same bytes, with the request id of the first.
    """
    await crowd.first.fund("alice", 1)
    await crowd.first.open("bob")
    answers = await crowd.all_at_once([("same", "alice", "bob", 7)] * 100)
    assert {(answer.status, answer.body) for answer in answers} == {(409, answers[0].body)}
    assert sum(not answer.replayed for answer in answers) == 1
    await crowd.history.check()


async def test_a_duplicate_never_finds_its_own_money_gone(crowd: Crowd) -> None:
    """If a balance suffices exactly once, both of two concurrent duplicates are answered with success."""
    await crowd.first.open("bob")
    for number in range(25):
        await crowd.first.fund(f"exact-{number}", 10)
    for number in range(25):
        answers = await crowd.all_at_once([(f"all-{number}", f"exact-{number}", "bob", 10)] * 4)
        assert [answer.status for answer in answers] == [201] * 4
    assert await crowd.first.balance("bob") == 250
    await crowd.history.check()


async def test_differing_requests_under_one_key(crowd: Crowd) -> None:
    """
    One of the differing requests binds the key; the others get 422 and do nothing, and requests equal to the first
    replay.
    """
    await crowd.first.fund("alice", 100_000)
    await crowd.first.open("bob")
    amounts = [1 + number % 40 for number in range(120)]
    answers = await crowd.all_at_once([("shared", "alice", "bob", amount) for amount in amounts])
    winners = {amount for amount, answer in zip(amounts, answers, strict=True) if answer.status == 201}
    assert len(winners) == 1
    assert Counter(answer.status for answer in answers) == {201: 3, 422: 117}
    assert await crowd.first.balance("bob") == winners.pop()
    await crowd.history.check()


async def test_a_crowd_under_one_key_costs_a_handful_of_batches(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Requests that wait for the first one under their key are answered from its outcome, without batches of their own.
    """
    await crowd.first.fund("alice", 100_000)
    await crowd.first.open("bob")
    sendings = itertools.count()
    send = BatchSender.send

    async def counted(*arguments: Any, **options: Any) -> None:
        next(sendings)
        await send(*arguments, **options)

    monkeypatch.setattr(BatchSender, "send", counted)
    answers = await crowd.all_at_once([("shared", "alice", "bob", 1 + number) for number in range(100)])
    assert Counter(answer.status for answer in answers) == {201: 1, 422: 99}
    assert next(sendings) <= 10 * len(crowd.clients)


async def meet(two: Crowd, database_url: str, transfers: Sequence[tuple[str, str, str, int]]) -> list[Answer]:
    """Send transfers so that the batches of both instances find the key free before either binds it."""
    async with inserts_held(database_url):
        answers = asyncio.create_task(two.all_at_once(transfers))
        await until(partial(somebody_waits, database_url, 2))
    return await answers


async def test_one_key_for_different_accounts(
    two: Crowd, instances: Sequence[Service], caplog: pytest.LogCaptureFixture
) -> None:
    """
    If two batches share a key but no account, no lock separates them; the unique constraint does, and one of them wins.
    """
    for number in range(4):
        await two.first.fund(f"from-{number}", 1_000)
        await two.first.open(f"to-{number}")
    for number in range(5):
        orders = [(f"shared-{number}", f"from-{side}", f"to-{side}", 1) for side in range(4)]
        answers = await meet(two, instances[0].database_url, orders)
        assert Counter(answer.status for answer in answers) == {201: 1, 422: 3}
    assert _conflicts(caplog), "no two batches ever met on the unique key"
    await two.history.check()


async def test_one_key_for_missing_accounts(
    two: Crowd, instances: Sequence[Service], caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that name only missing accounts lock nothing, and still bind their key once."""
    for number in range(5):
        orders = [(f"missing-{number}", f"no-{side}", "nobody", 1) for side in range(4)]
        answers = await meet(two, instances[0].database_url, orders)
        assert Counter(answer.status for answer in answers) == {404: 1, 422: 3}
        again = await two.all_at_once(orders)
        assert Counter(answer.status for answer in again) == {404: 1, 422: 3}
    assert _conflicts(caplog), "no two batches ever met on the unique key"
    await two.history.check()


def _conflicts(caplog: pytest.LogCaptureFixture) -> int:
    return sum("UniqueViolationError" in record.getMessage() for record in caplog.records)


async def test_bulk_and_single_with_the_same_keys(crowd: Crowd) -> None:
    """A key is the same alone and in a bulk: the first request with it is posted, and the others replay it."""
    await crowd.first.fund("alice", 100_000)
    await crowd.first.open("bob")
    keys = [f"mixed-{number}" for number in range(40)]
    requests = [{"key": key, "source": "alice", "destination": "bob", "amount": 1} for key in keys]
    turns = itertools.cycle(crowd.clients)
    history = crowd.history

    async def single(client: Client, key: str) -> int:
        return definite(await history.transfer(client, key, "alice", "bob", 1)).status

    async def bulk(client: Client, part: list[dict[str, object]]) -> Answer:
        answer = await history.bulk(client, part)
        assert answer is not None
        assert answer.status == 200, answer
        return answer

    halves = [requests[:30], requests[10:], requests[::-1]]
    singles = asyncio.gather(*(single(next(turns), key) for key in keys for _ in range(2)))
    bulks = asyncio.gather(*(bulk(next(turns), part) for part in halves for _ in range(2)))
    async with asyncio.timeout(60):
        statuses, answers = await singles, await bulks
    heard = Counter(statuses) + Counter(result["status"] for answer in answers for result in answer.json["results"])
    assert heard.keys() == {201}
    assert await crowd.first.balance("bob") == len(keys)
    await history.check()


async def test_one_key_twice_in_a_bulk(crowd: Crowd) -> None:
    """Within one batch, the second item of a key replays the first, or gets 422 if it differs."""
    await crowd.first.fund("alice", 100)
    await crowd.first.open("bob")
    item = {"source": "alice", "destination": "bob", "currency": "EUR"}
    answer = await crowd.history.bulk(
        crowd.first,
        [
            {"key": "twice", **item, "amount": 100},
            {"key": "twice", **item, "amount": 100},
            {"key": "twice", **item, "amount": 99},
        ],
    )
    assert answer is not None
    assert [result["status"] for result in answer.json["results"]] == [201, 201, 422]
    assert answer.json["results"][0]["transfer"] == answer.json["results"][1]["transfer"]
    await crowd.history.check()
