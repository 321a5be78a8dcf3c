"""`GET /v1/limits` shows what is left of a key's limits, without taking a token."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from server.gate.key_store import KeyLimit
from server.gate.limits import Limit
from server.http.handlers import key_limits
from tests.limits.steps import DAY, left, limited, once
from tests.support.client import Client
from tests.support.service import NO_REDIS, Service, in_process


def policy(name: str, limit: KeyLimit, remaining: int) -> dict[str, object]:
    """Return the expected entry for a limit."""
    quota, window, burst = limit[:3]
    assert quota is not None
    assert window is not None
    assert burst is not None
    return {
        "name": name,
        "quota": quota,
        "window_seconds": window,
        "burst": burst,
        "remaining": remaining,
        "reset_seconds": -((remaining - burst) * window // quota),
    }


async def told(client: Client) -> Any:
    """Return the limits, after checking that the headers agree."""
    answer = await client.get("/v1/limits")
    assert answer.status == 200, answer
    assert answer.headers["Cache-Control"] == "no-store"
    shown = answer.json["policies"]
    assert answer.headers["RateLimit-Policy"] == ", ".join(
        f'"{one["name"]}";q={one["quota"]};w={one["window_seconds"]}' for one in shown
    )
    assert left(answer) == min(one["remaining"] for one in shown)
    if len(shown) == 1:
        assert answer.headers["RateLimit"].endswith(f";t={shown[0]['reset_seconds']}")
    return answer.json


@pytest.mark.parametrize("role", ["read", "admin"])
async def test_nothing_is_taken(service: Service, ledger: str, role: str) -> None:
    """Repeated reads of the limits give the same figures; only other requests change them."""
    limit = KeyLimit(100, DAY, 7, 5)
    client = await limited(service, ledger, limit, role)
    for remaining in (7, 6, 5):
        for _ in range(3):
            assert await told(client) == {
                "policies": [policy("default", limit, remaining)],
                "concurrency": {"limit": 5, "running": 1},
                "counted_by": "service",
            }
        assert left(await client.get("/v1/accounts")) == remaining - 1


async def test_it_is_told_when_nothing_is_left(service: Service, ledger: str) -> None:
    """A key without tokens can still read its limits, also right after a refusal."""
    client = await limited(service, ledger, once(2))
    assert [(await client.get("/v1/accounts")).status for _ in range(3)] == [200, 200, 429]
    for _ in range(3):
        (default,) = (await told(client))["policies"]
        assert (default["remaining"], default["reset_seconds"]) == (0, 2 * DAY)


async def test_every_limit_is_told(database_url: str, redis_url: str) -> None:
    """The key's and the ledger's limits have separate figures: two keys share only the ledger's."""
    async with in_process(database_url, redis_url, ledger_rate="2/day", ledger_burst=9) as service:
        first, second = [await limited(service, "books", once(burst)) for burst in (4, 20)]
        for _ in range(3):
            await first.get("/v1/accounts")
        await second.get("/v1/accounts")
        ledger = policy("ledger", KeyLimit(2, DAY, 9), 5)
        assert (await told(first))["policies"] == [policy("default", once(4), 1), ledger]
        assert (await told(second))["policies"] == [policy("default", once(20), 19), ledger]


async def test_asking_in_a_circle_is_limited(service: Service, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the free reads, reading the limits takes a token, and is refused without one."""
    monkeypatch.setattr(key_limits, "FREE", Limit(1, DAY, 5))
    client, other = [await limited(service, ledger, once(3)) for _ in range(2)]
    answers = [await client.get("/v1/limits") for _ in range(10)]
    assert [(answer.status, left(answer)) for answer in answers] == [
        *[(200, 3)] * 5,
        *[(200, 2), (200, 1), (200, 0)],
        *[(429, 0)] * 2,
    ]
    assert [(await other.get("/v1/limits")).status for _ in range(5)] == [200] * 5


async def test_how_many_run(service: Service, ledger: str) -> None:
    """The answer includes how many requests of the key this worker runs, this one included."""
    client = await limited(service, ledger, KeyLimit(1_000, 1, 1_000, 50))
    answers = await asyncio.gather(*(client.get("/v1/limits") for _ in range(10)))
    told_running = [answer.json["concurrency"]["running"] for answer in answers]
    assert 1 <= min(told_running) <= max(told_running) <= 10


@pytest.mark.parametrize(("workers", "share"), [(1, 8), (4, 2)])
async def test_without_redis_a_worker_tells_its_share(database_url: str, workers: int, share: int) -> None:
    """While Redis is away, the answer shows this worker's share, and that the worker counts."""
    async with in_process(database_url, NO_REDIS, workers=workers, ledger_rate="1/day", ledger_burst=40) as service:
        client = await limited(service, "books", once(8))
        found = await told(client)
        assert found["counted_by"] == "worker"
        assert [one["remaining"] for one in found["policies"]] == [share, 40 // workers]
        answers = [await client.get("/v1/accounts") for _ in range(share + 1)]
        assert Counter(answer.status for answer in answers) == {200: share, 429: 1}
        assert [one["remaining"] for one in (await told(client))["policies"]] == [0, 40 // workers - share]


async def test_it_takes_no_parameters_and_no_writes(client: Client) -> None:
    """The route accepts GET and HEAD, without a query."""
    assert (await client.get("/v1/limits?x=1")).status == 400
    written = await client.post("/v1/limits", {})
    assert (written.status, written.headers["Allow"]) == (405, "GET, HEAD")
    assert (await client.send("HEAD", "/v1/limits")).status == 200
