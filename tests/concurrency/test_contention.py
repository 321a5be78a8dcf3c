"""Hundreds of clients on a few accounts all get definite answers, and the books add up."""

import asyncio
import itertools
import random
from collections import Counter

import pytest

from tests.concurrency.crowd import Crowd
from tests.support.books import verdict
from tests.support.client import Answer
from tests.support.waiting import WAIT_SECONDS

ACCOUNTS = ("ann", "ben", "cid", "dot")
FUNDS = 200


def _deadlocks(caplog: pytest.LogCaptureFixture) -> int:
    return sum("Deadlock" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_on_four_accounts(crowd: Crowd, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """
    Random transfers with equal and differing duplicates, small balances and missing accounts all get definite answers.
    """
    chance = random.Random(seed)
    for account in ACCOUNTS:
        await crowd.first.fund(account, FUNDS)
    transfers = []
    for _ in range(240):
        source, destination = chance.sample((*ACCOUNTS, "nobody") if chance.random() < 0.05 else ACCOUNTS, 2)
        transfers.append((f"storm-{chance.randrange(120)}", source, destination, chance.randint(1, FUNDS)))
    # Half of the transfers are sent twice at the same instant.
    transfers += chance.sample(transfers, 120)
    chance.shuffle(transfers)
    answers = await crowd.all_at_once(transfers)
    heard = Counter(verdict(answer) for answer in answers)
    assert heard["posted"] > 0
    assert heard["refused"] > 0
    assert heard["reused"] > 0
    assert sum(answer.replayed for answer in answers) > 0
    assert _deadlocks(caplog) == 0
    assert sum([await crowd.first.balance(account) for account in ACCOUNTS]) == FUNDS * len(ACCOUNTS)
    await crowd.history.check()


async def test_opposing_transfers(crowd: Crowd, caplog: pytest.LogCaptureFixture) -> None:
    """Transfers from A to B and from B to A never deadlock, alone or in bulks that name them in either order."""
    for account in ("ann", "ben"):
        await crowd.first.fund(account, 1_000_000)
    pairs = itertools.cycle([("ann", "ben"), ("ben", "ann")])
    turns = itertools.cycle(crowd.clients)

    def transfers(name: str, count: int) -> list[dict[str, object]]:
        named = ((number, *next(pairs)) for number in range(count))
        return [{"key": f"{name}-{n}", "source": s, "destination": d, "amount": 1} for n, s, d in named]

    singles = [(f"single-{number}", *next(pairs), 1) for number in range(300)]
    bulks = [transfers(f"bulk-{number}", 21) for number in range(20)]
    async with asyncio.timeout(60):
        _, *heard = await asyncio.gather(
            crowd.all_at_once(singles),
            *(crowd.history.bulk(next(turns), bulk, atomic=number % 2 == 0) for number, bulk in enumerate(bulks)),
        )
    for answer in heard:
        assert isinstance(answer, Answer)
        assert {result["status"] for result in answer.json["results"]} == {201}
    assert _deadlocks(caplog) == 0
    await crowd.history.check()


async def test_racing_for_the_last_money(crowd: Crowd) -> None:
    """Of many transfers from an account at once, exactly as many succeed as it has money for."""
    await crowd.first.fund("ann", 30)
    await crowd.first.open("ben")
    answers = await crowd.all_at_once([(f"race-{number}", "ann", "ben", 10) for number in range(100)])
    assert Counter(answer.status for answer in answers) == {201: 3, 409: 97}
    assert {answer.code for answer in answers if answer.status == 409} == {"insufficient_funds"}
    assert await crowd.first.balance("ann") == 0
    await crowd.history.check()


async def test_atomic_sets_race_over_the_same_accounts(crowd: Crowd) -> None:
    """
    A set is posted completely or not at all while others want the same money, and its duplicates get the same answer.
    """
    await crowd.first.fund("ann", 100)
    for account in ("ben", "cid"):
        await crowd.first.open(account)
    turns = itertools.cycle(crowd.clients)
    sets = [
        [
            {"key": f"set-{number}-a", "source": "ann", "destination": "ben", "amount": 10},
            {"key": f"set-{number}-b", "source": "ben", "destination": "cid", "amount": 10},
        ]
        for number in range(30)
    ]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(
            *(crowd.history.bulk(next(turns), requests, atomic=True) for requests in sets for _ in range(3))
        )
    heard = []
    for answer in answers:
        assert answer is not None
        assert answer.status == 200, answer
        heard.append(tuple(result["status"] for result in answer.json["results"]))
    assert Counter(heard) == {(201, 201): 30, (409, 409): 60}
    assert [await crowd.first.balance(account) for account in ("ann", "ben", "cid")] == [0, 0, 100]
    await crowd.history.check()


async def test_atomic_sets_that_share_a_key(crowd: Crowd) -> None:
    """Of two sets with a common key, the first binds it; the other does nothing."""
    await crowd.first.fund("ann", 1_000)
    await crowd.first.open("ben")
    turns = itertools.cycle(crowd.clients)
    for number in range(10):
        sets = [
            [
                {"key": f"own-{number}-{side}", "source": "ann", "destination": "ben", "amount": 1},
                {"key": f"shared-{number}", "source": "ann", "destination": "ben", "amount": 2 + side},
            ]
            for side in range(2)
        ]
        async with asyncio.timeout(WAIT_SECONDS):
            answers = await asyncio.gather(
                *(crowd.history.bulk(next(turns), requests, atomic=True) for requests in sets)
            )
        heard = sorted(tuple(r["status"] for r in answer.json["results"]) for answer in answers if answer is not None)
        assert heard == [(201, 201), (409, 422)]
    await crowd.history.check()
