"""A service with webhooks on its own database, and the background jobs that deliver them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from server.background.jobs import keep
from server.events.relay import Relay
from server.events.webhooks import deliveries as module
from server.events.webhooks.addresses import Destinations
from server.events.webhooks.deliveries import Deliveries
from server.events.webhooks.secrets import Vault
from server.events.webhooks.sender import Sender
from server.store.background import stop
from tests.support.client import Client
from tests.support.clock import BooksClock, moved_clock
from tests.support.service import LOOPBACK, WEBHOOK_KEY, Service, in_process, leader_books
from tests.webhooks.receiver import Trust, make_trust

# Another key than the service's.
OTHER_KEY = "b" * 42 + "A="
# Seconds for an attempt that has to time out; long enough for the others on a busy machine.
SHORT_SECONDS = 1.0

Delivering = Callable[..., AbstractAsyncContextManager[Deliveries]]


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """A certificate, and a client that trusts it."""
    return make_trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
async def own(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on its own database, because deliveries look at all ledgers."""
    async with in_process(database_url, redis_url) as service:
        yield service


@pytest.fixture
async def clock(own: Service) -> AsyncIterator[BooksClock]:
    """The clock of the service's books."""
    async with moved_clock(own.database_url, own.redis_url) as clock:
        yield clock


@pytest.fixture
def delivering(own: Service, monkeypatch: pytest.MonkeyPatch) -> Delivering:
    """Relay and deliver as a leader does, looking often, until the block ends."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)

    @asynccontextmanager
    async def run(key: str | None = WEBHOOK_KEY, seconds: float = 10.0) -> AsyncIterator[Deliveries]:
        sender = Sender(Destinations(LOOPBACK), seconds=seconds)
        async with leader_books(own) as books:
            job = Deliveries(books.database, books.feed, None if key is None else Vault(key), sender)
            running = [asyncio.create_task(keep(each)) for each in (Relay(own.database_url, [job.notice]), job)]
            try:
                yield job
            finally:
                await stop(*running)

    return run


async def make(client: Client, url: str, **fields: object) -> Any:
    """Create an endpoint and return it with its secret."""
    answer = await client.post("/v1/webhook-endpoints", {"url": url, **fields})
    assert answer.status == 201, answer
    return answer.json


async def now(client: Client, endpoint: Any) -> Any:
    """Return the present state of an endpoint."""
    answer = await client.get(f"/v1/webhook-endpoints/{endpoint['id']}")
    assert answer.status == 200, answer
    return answer.json


async def listed(client: Client, endpoint: Any, what: str) -> list[Any]:
    """Return an endpoint's attempts, or its undelivered events."""
    answer = await client.get(f"/v1/webhook-endpoints/{endpoint['id']}/{what}?limit=100")
    assert answer.status == 200, answer
    rows: list[Any] = answer.json["data"]
    return rows


async def happen(client: Client, count: int, prefix: str = "account") -> None:
    """Open accounts one after another, so that the client's ledger has this many events."""
    for number in range(count):
        assert (await client.open(f"{prefix}-{number}")).status == 201
