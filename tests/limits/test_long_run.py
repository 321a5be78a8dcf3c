"""A long run, by the real clock: what is admitted is the burst and the rate times the time."""

import asyncio
import time

import pytest

from server.process.commands.keys import KeyLimit
from tests.limits.steps import limited
from tests.support.service import NO_REDIS, in_process

RUN_SECONDS = 2.0
ASKING = 8


@pytest.mark.parametrize("away", [False, True], ids=["counted in Redis", "Redis away"])
@pytest.mark.parametrize(("rate", "burst"), [(30, 60), (7, 14)])
async def test_a_long_run(database_url: str, redis_url: str, rate: int, burst: int, *, away: bool) -> None:
    """
    Clients that never stop asking get the burst and the rate times the time, within one token.

    The bursts are what comes in two seconds: for so long nobody may get to ask on a busy machine.
    """
    async with in_process(database_url, NO_REDIS if away else redis_url) as service:
        client = await limited(service, "books", KeyLimit(rate, 1, burst))
        began = time.monotonic()
        assert (await client.get("/v1/accounts")).status == 200
        counted_from = time.monotonic()

        async def ask() -> int:
            admitted = 0
            while time.monotonic() - began < RUN_SECONDS:
                answer = await client.get("/v1/accounts")
                admitted += answer.status == 200
            return admitted

        admitted = 1 + sum(await asyncio.gather(*(ask() for _ in range(ASKING))))
        ended = time.monotonic()
        # Counted by a clock within the run: as long as the run at most, and as what surely lies within it at least.
        assert admitted <= burst + rate * (ended - began) + 1
        assert admitted >= burst + rate * (began + RUN_SECONDS - counted_from) - 1
