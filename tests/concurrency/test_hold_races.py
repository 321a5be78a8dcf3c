"""When clients race to capture, void and reverse while holds expire, limits are kept and the books add up."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest

from tests.api.holding import figures, follow, held, paid, progress
from tests.api.steps import bulk, order
from tests.concurrency.conftest import gather_crowd
from tests.concurrency.crowd import Crowd, placed
from tests.support.books import check_books
from tests.support.client import Answer, Client, new_key
from tests.support.command import call
from tests.support.expiries import post_expiries
from tests.support.postgres import create_database, drop_database
from tests.support.service import Service, in_process

CLIENTS = 50
# Holds that expire within a second on one account, and seconds that a crowd may take.
HOLDS, PATIENCE_SECONDS = 1_000, 60


@pytest.fixture
async def market(crowd: Crowd) -> Crowd:
    """A crowd in whose ledger alice has 1,000 and bob nothing."""
    await crowd.first.fund("alice", 1_000)
    await crowd.first.open("bob")
    return crowd


async def all_follow(crowd: Crowd, asked: Sequence[tuple[str, str, dict[str, Any]]]) -> list[Answer]:
    """Send (kind, parent, fields) with new keys to the instances in turn, all at the same instant."""
    turns = itertools.cycle(crowd.clients)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answers = await asyncio.gather(
            *(placed(partial(follow, next(turns), kind, of, **fields)) for kind, of, fields in asked)
        )
    assert {answer.status for answer in answers} <= {201, 409}
    return answers


def told(answers: Sequence[Answer]) -> Counter[str]:
    """Count the answers by kind or error code."""
    return Counter(answer.json["kind"] if answer.status == 201 else answer.code for answer in answers)


def moved(answers: Sequence[Answer], kind: str) -> int:
    """Return the total that posted answers of a kind moved or released."""
    return sum(answer.json["amount"] for answer in answers if answer.status == 201 and answer.json["kind"] == kind)


async def test_captures_race(market: Crowd) -> None:
    """Of many captures at once, exactly as many succeed as the hold has money for."""
    parent = await held(market.first, 100)
    answers = await all_follow(market, [("capture", parent, {"amount": 7, "release_rest": False})] * CLIENTS)
    assert told(answers) == {"capture": 14, "capture_exceeds_hold": CLIENTS - 14}
    assert await progress(market.first, parent) == (("open", 98, 2), 0)
    assert await figures(market.first, "alice") == (902, 0, 2, 900)
    await check_books(market.history.database_url)


async def test_captures_of_all_that_remains_race_with_voids(market: Crowd) -> None:
    """One of many captures and voids ends the hold; every other one is refused because it has ended."""
    parents = [await held(market.first, 10) for _ in range(5)]
    kinds = ["capture", "void"] * (CLIENTS // 2)
    answers = await all_follow(market, [(kind, parent, {}) for kind in kinds for parent in parents])
    heard = told(answers)
    assert heard["capture"] + heard["void"] == len(parents)
    assert heard["hold_not_open"] == len(parents) * (CLIENTS - 1)
    assert await figures(market.first, "bob") == (10 * heard["capture"], 0, 0, 10 * heard["capture"])
    assert await figures(market.first, "alice") == (1_000 - 10 * heard["capture"], 0, 0, 1_000 - 10 * heard["capture"])
    await check_books(market.history.database_url)


async def test_reversals_race(market: Crowd) -> None:
    """Racing reversals never move back more than the transfer moved."""
    parent = await paid(market.first, 100)
    asked: list[tuple[str, str, dict[str, Any]]] = [("reversal", parent, {"amount": 1 + n % 9}) for n in range(CLIENTS)]
    answers = await all_follow(market, asked)
    back = moved(answers, "reversal")
    assert told(answers).keys() <= {"reversal", "reversal_exceeds_transfer"}
    assert 100 - 9 < back <= 100
    assert await progress(market.first, parent) == (None, back)
    assert await market.first.balance("bob") == 100 - back
    await check_books(market.history.database_url)


@pytest.mark.parametrize("seed", [1, 2])
async def test_everything_at_once(market: Crowd, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """
    Captures, voids, reversals, transfers and sets on the same accounts, in both directions, all get definite answers.
    """
    chance = random.Random(seed)
    client = market.first
    holds = [await held(client, 20) for _ in range(8)]
    transfers = [await paid(client, 20) for _ in range(8)]
    turns = itertools.cycle(market.clients)

    async def one(number: int) -> None:
        mine = next(turns)
        pick = chance.random()
        if pick < 0.35:
            fields: dict[str, Any] = {"amount": chance.randint(1, 12), "release_rest": chance.random() < 0.3}
            send = partial(follow, mine, "capture", chance.choice(holds), **fields)
        elif pick < 0.45:
            send = partial(follow, mine, "void", chance.choice(holds))
        elif pick < 0.7:
            send = partial(follow, mine, "reversal", chance.choice(transfers), amount=chance.randint(1, 12))
        elif pick < 0.85:
            source, destination = chance.sample(("alice", "bob"), 2)
            send = partial(mine.transfer, source, destination, chance.randint(1, 30), hold=chance.random() < 0.5)
        else:
            keys = [new_key(), new_key(), new_key()]
            items = [
                {"key": keys[0], "kind": "capture", "parent": chance.choice(holds), "amount": 3},
                {"key": keys[1], **order("bob", "alice", 3, hold=True)},
                {"key": keys[2], "kind": "capture", "parent_key": keys[1], "amount": chance.randint(1, 4)},
            ]
            answer = await placed(partial(mine.post, "/v1/transfers/bulk", {"atomic": True, "transfers": items}))
            assert answer.status == 200, answer
            assert {result["status"] for result in answer.json["results"]} in ({201}, {409})
            return
        answer = await placed(send)
        assert answer.status in (201, 409), answer

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(one(number) for number in range(6 * CLIENTS)))
    assert not [record for record in caplog.records if "Deadlock" in record.getMessage()]
    assert sum([await client.balance(account) for account in ("alice", "bob")]) == 1_000
    await check_books(market.history.database_url)


async def test_one_key_from_many_callers(two: Crowd) -> None:
    """A capture under one key is made once, and all its callers get the same bytes; a different amount gets 422."""
    await two.first.fund("alice", 1_000)
    await two.first.open("bob")
    parent = await held(two.first, 100)
    turns = itertools.cycle(two.clients)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answers = await asyncio.gather(
            *(placed(partial(follow, next(turns), "capture", parent, "one", amount=5 + n % 2)) for n in range(CLIENTS))
        )
    assert Counter(answer.status for answer in answers) == {201: CLIENTS // 2, 422: CLIENTS // 2}
    posted = [answer for answer in answers if answer.status == 201]
    assert len({answer.body for answer in posted}) == 1
    assert sum(not answer.replayed for answer in posted) == 1
    assert moved(posted[:1], "capture") == 1_000 - await two.first.balance("alice")
    await check_books(two.history.database_url)


@pytest.fixture
async def alone(template: str, ledger: str) -> AsyncIterator[tuple[Service, Crowd]]:
    """Two instances on a database without other holds."""
    database_url = await create_database(template)
    async with in_process(database_url) as first, in_process(database_url) as second:
        yield first, await gather_crowd((first, second), ledger)
    await drop_database(template, database_url)


async def test_a_thousand_holds_end_within_a_second(
    alone: tuple[Service, Crowd], ledger: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    While a hot account gets transfers and expiries are posted, its available amount counts each hold exactly until its
    end.
    """
    service, crowd = alone
    client = crowd.first
    await client.fund("hot", 2 * HOLDS)
    for account in ("cold", "purse"):
        await client.open(account)
    seconds = itertools.cycle((1, 2))
    items = [{"key": new_key(), **order("hot", "cold", 1, hold=True, expires_in=next(seconds))} for _ in range(HOLDS)]
    parts = [items[start : start + 100] for start in range(0, HOLDS, 100)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        for part in parts:
            assert {result["status"] for result in await bulk(client, part)} == {201}
        posted = 0
        swept = 0
        seen: list[tuple[int, int]] = []
        while (account := await client.account("hot"))["held_out"]:
            seen.append((account["version"], account["held_out"]))
            answers = await asyncio.gather(
                *(mine.transfer("hot", "purse", 1) for mine in crowd.clients for _ in range(10)),
                post_expiries(service, ledger),
                *(_looked_at(mine) for mine in crowd.clients),
            )
            posted += sum(isinstance(answer, Answer) and answer.status == 201 for answer in answers)
            swept += sum(answer for answer in answers if isinstance(answer, int))
    swept += await post_expiries(service, ledger)
    assert swept == HOLDS
    assert seen == sorted(seen)
    # Each hold counts twice, once for its creation and once for its end.
    assert account["version"] == 2 + HOLDS + HOLDS + posted
    assert await figures(client, "hot") == (2 * HOLDS - posted, 0, 0, 2 * HOLDS - posted)
    assert await figures(client, "purse") == (posted, 0, 0, posted)
    assert not [record for record in caplog.records if "Deadlock" in record.getMessage()]
    # `check_books` would look at all holds for each row.
    audited = await call("audit", database_url=service.database_url)
    assert audited.code == 0, audited.out


async def _looked_at(client: Client) -> None:
    """Read both accounts: what one holds out, the other holds in, less the holds that ended between the two reads."""
    hot = await client.account("hot")
    cold = await client.account("cold")
    assert hot["available"] == hot["balance"] - hot["held_out"]
    assert 0 <= cold["held_in"] <= hot["held_out"] <= HOLDS
