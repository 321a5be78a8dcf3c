"""A long run with the real clock admits the burst plus the rate times the time."""

import asyncio
import time

import pytest

from server.gate.key_store import KeyLimit
from tests.limits.steps import limited
from tests.support.client import Client
from tests.support.service import NO_REDIS, Service, in_process

RUN_SECONDS = 2.0
# Clients for each key.
ASKING = 4


async def ask(client: Client, until: float) -> tuple[int, float]:
    """Ask until that moment and until nothing is left; return how many were admitted and the last sending time."""
    admitted = 0
    while True:
        asked = time.monotonic()
        answer = await client.get("/v1/accounts")
        assert answer.status in (200, 429)
        admitted += answer.status == 200
        if answer.status == 429 and asked >= until:
            return admitted, asked


async def ask_all(client: Client, until: float) -> tuple[int, float, float]:
    """Run several clients at once; return how many were admitted, the last sending time, and the end."""
    found = await asyncio.gather(*(ask(client, until) for _ in range(ASKING)))
    return sum(admitted for admitted, _ in found), max(asked for _, asked in found), time.monotonic()


async def run(service: Service, rate: int, burst: int) -> None:
    """Use up a limit, then keep asking; the count is exact between two moments at which no token was left."""
    client = await limited(service, "books", KeyLimit(rate, 1, burst))
    began = time.monotonic()
    admitted, asked, answered = await ask_all(client, began)
    assert burst <= admitted <= burst + rate * (answered - began) + 1
    # At some moment between these two, no token was left.
    emptied_after, emptied_before = asked, answered
    admitted, asked, answered = await ask_all(client, answered + RUN_SECONDS)
    assert rate * (asked - emptied_before) - 1 <= admitted <= rate * (answered - emptied_after) + 1


@pytest.mark.parametrize("away", [False, True], ids=["counted in Redis", "Redis away"])
async def test_a_long_run(database_url: str, redis_url: str, *, away: bool) -> None:
    """
    Clients that never stop asking get the burst plus the rate times the time, within one token.

    Each burst is worth two seconds, so a client may be delayed that long on a busy machine.
    """
    async with in_process(database_url, NO_REDIS if away else redis_url) as service:
        await asyncio.gather(run(service, 30, 60), run(service, 7, 14))
