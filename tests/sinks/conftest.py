"""A service whose events are sent, and the brokers that receive them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from loadtests.brokers import Broker, RabbitMQ
from server.events.sinks import kafka as kafka_module
from server.events.sinks import publisher, publishing, sink
from server.events.sinks import rabbitmq as rabbitmq_module
from tests.support.brokers import SecuredKafka, running
from tests.support.folders import server_folder
from tests.support.service import Service, in_process

# Seconds after which a broker counts as away.
SHORT_SECONDS = 3.0


@pytest.fixture
async def own(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on a database of its own, because sinks may be sent the events of all ledgers."""
    async with in_process(database_url, redis_url) as service:
        yield service


@pytest.fixture(scope="session")
def broker_folder() -> Iterator[Path]:
    """The folder for the brokers' files."""
    with server_folder("ts-broker-") as folder:
        yield folder


@pytest.fixture(scope="session")
async def kafka(broker_folder: Path) -> AsyncIterator[SecuredKafka]:
    """A Kafka for all tests of this process; each test uses its own topics."""
    async with running(SecuredKafka, broker_folder) as broker:
        yield broker


@pytest.fixture(scope="session")
async def rabbitmq(broker_folder: Path) -> AsyncIterator[RabbitMQ]:
    """A RabbitMQ for all tests of this process; each test uses its own exchange."""
    async with running(RabbitMQ, broker_folder) as broker:
        yield broker


@pytest.fixture(autouse=True)
def noticing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice operators' changes at once."""
    monkeypatch.setattr(publisher, "STEP_SECONDS", 0.02)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use shorter timeouts for brokers, and shorter pauses before retries."""
    monkeypatch.setattr(sink, "OPEN_SECONDS", SHORT_SECONDS)
    for module in (kafka_module, rabbitmq_module):
        for name in ("CONFIRM_SECONDS", "CLOSE_SECONDS"):
            monkeypatch.setattr(module, name, SHORT_SECONDS)
    monkeypatch.setattr(kafka_module, "REQUEST_MS", 1_000)
    monkeypatch.setattr(publishing, "PAUSE_MAX_SECONDS", 1.0)


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each kind of broker in turn."""
    found: Broker = request.getfixturevalue(request.param)
    return found
