"""Limits while Redis is away: each worker counts alone, and no request fails."""

import asyncio
from collections import Counter

import pytest

from server.gate.key_store import KeyLimit
from tests.limits.steps import left, limited, once
from tests.support.service import NO_REDIS, Service, in_process


@pytest.mark.parametrize(("workers", "admitted"), [(1, 100), (4, 25)])
async def test_a_worker_admits_its_share(database_url: str, workers: int, admitted: int) -> None:
    """Of 400 requests at once a worker admits exactly its share of the burst, and no request fails."""
    async with in_process(database_url, NO_REDIS, workers=workers) as service:
        client = await limited(service, "books", once(100))
        answers = await asyncio.gather(*(client.get("/v1/accounts/nobody") for _ in range(400)))
        assert Counter(answer.status for answer in answers) == {404: admitted, 429: 400 - admitted}
        assert {left(answer) for answer in answers if answer.status == 429} == {0}


async def test_both_limits_hold(database_url: str) -> None:
    """A refusal by the ledger's limit takes nothing from the key."""
    async with in_process(database_url, NO_REDIS, ledger_rate="1/day", ledger_burst=3) as service:
        first, second = [await limited(service, "books", once(10)) for _ in range(2)]
        answers = [await client.get("/v1/accounts") for client in (first, first, second, second, second)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json["violated-policies"] == ["ledger"]
        assert service.app is not None
        states = service.app.gate._local._states
        assert sorted(units // price for units, _, price in states.values()) == [0, 8, 9]


async def test_a_share_admits_what_the_whole_can_hold(database_url: str) -> None:
    """A bulk larger than a worker's share is admitted, and its debt repaid; one larger than the burst is a 400."""
    async with in_process(database_url, NO_REDIS, workers=4) as service:
        client = await limited(service, "books", KeyLimit(4, 1, 8))

        async def bulk(count: int) -> tuple[int, str | None]:
            items = [{"id": f"a{n}", "currency": "EUR"} for n in range(count)]
            answer = await client.post("/v1/accounts/bulk", {"accounts": items})
            return answer.status, answer.headers.get("Retry-After")

        assert await bulk(9) == (400, None)
        assert await bulk(4) == (200, None)
        # The share is one token a second and two at once; two are owed.
        assert await bulk(1) == (429, "3")
        await asyncio.sleep(3)
        assert await bulk(1) == (200, None)


async def test_waiting_as_told_is_enough(database_url: str) -> None:
    """Retry-After is right without Redis too."""
    async with in_process(database_url, NO_REDIS) as service:
        client = await limited(service, "books", KeyLimit(1, 1, 1))
        assert [(await client.get("/v1/accounts")).status for _ in range(2)] == [200, 429]
        refused = await client.get("/v1/accounts")
        await asyncio.sleep(int(refused.headers["Retry-After"]))
        assert (await client.get("/v1/accounts")).status == 200


async def test_replies_of_refused_requests_look_nothing_up(service: Service, ledger: str) -> None:
    """A refused request returns no snapshot and takes no lease; the next admitted request does."""
    client, other = await limited(service, ledger, once(1)), await service.client(ledger)
    await other.open("alice")
    assert (await client.get("/v1/transfers")).status == 200
    assert (await client.get("/v1/accounts/alice")).status == 429
    assert (await other.get("/v1/accounts/alice")).json["id"] == "alice"
