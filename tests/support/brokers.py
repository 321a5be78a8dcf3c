"""Runs Apache Kafka and RabbitMQ for tests if they are installed, and reads them from their first message on."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from loadtests.brokers import Broker, Received
from tests.support.balancer import leave_out

B = TypeVar("B", bound=Broker)


@asynccontextmanager
async def running(kind: type[B], folder: Path) -> AsyncIterator[B]:
    """Run a broker; if it is not installed, skip the test, or fail it in CI."""
    if reason := kind.missing():
        leave_out(reason)
    broker = kind(folder / kind.kind, folder / f"{kind.kind}.log")
    try:
        await broker.start()
        yield broker
    finally:
        await broker.close()


async def received(broker: Broker, name: str) -> list[Received]:
    """Return all messages of a topic or queue, in order for each key, without removing them."""
    count, found = await broker.count(name), []
    if count:
        async with aclosing(broker.follow(name, keep=True)) as messages:
            async for message in messages:
                found.append(message)
                if len(found) == count:
                    break
    return found
