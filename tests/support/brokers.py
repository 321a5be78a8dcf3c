"""Starts Apache Kafka and RabbitMQ for tests where they are installed, and reads all their messages."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aio_pika

from loadtests.brokers import Broker, Kafka, RabbitMQ
from loadtests.processes import free_port
from tests.support.balancer import leave_out

B = TypeVar("B", bound=Broker)


class Received(NamedTuple):
    """A message as a consumer gets it; `key` is Kafka's key or RabbitMQ's routing key."""

    key: str | None
    headers: Mapping[str, Any]
    body: bytes

    @property
    def event(self) -> Any:
        """The decoded event in its body."""
        return json.loads(self.body)


class SecuredKafka(Kafka):
    """Kafka with a second listener, at which one user has a password."""

    USERNAME, PASSWORD = "tally", "right"
    _SECURE = """
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SECURE:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.secure.sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{username}="{password}";
"""

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(folder, log)
        self.secure_port = free_port()
        plain = f"PLAINTEXT://127.0.0.1:{self.port}"
        text = self.properties.read_text().replace(plain, f"{plain},SECURE://127.0.0.1:{self.secure_port}")
        self.properties.write_text(text + self._SECURE.format(username=self.USERNAME, password=self.PASSWORD))


@asynccontextmanager
async def running(kind: type[B], folder: Path) -> AsyncIterator[B]:
    """Run a broker. If it is not installed, skip the test, but fail in CI."""
    if reason := kind.missing():
        leave_out(reason)
    broker = kind(folder / kind.kind, folder / f"{kind.kind}.log")
    try:
        await broker.start()
        yield broker
    finally:
        await broker.close()


async def received(broker: Broker, name: str) -> list[Received]:
    """Return all messages of a topic or queue, those of each key in the order of arrival; they stay there."""
    match broker:
        case Kafka():
            return await _in_topic(broker, name)
        case RabbitMQ():
            return await _in_queue(broker, name)
    raise NotImplementedError(broker.kind)


async def _in_topic(broker: Kafka, name: str) -> list[Received]:
    found: list[Received] = []
    async with broker.consumer(name) as consumer:
        count = sum((await consumer.end_offsets(consumer.assignment())).values())
        while len(found) < count:
            record = await consumer.getone()
            key = None if record.key is None else record.key.decode()
            found.append(Received(key, {name: value.decode() for name, value in record.headers}, record.value))
    return found


async def _in_queue(broker: RabbitMQ, name: str) -> list[Received]:
    found: list[Received] = []
    # Messages that are not acknowledged go back to the queue in their order.
    async with await aio_pika.connect(broker.url) as connection:
        queue = await (await connection.channel()).get_queue(name)
        while message := await queue.get(fail=False):
            told = {"content-type": message.content_type, "id": message.message_id, "type": message.type}
            mode = {"mode": str(int(message.delivery_mode or 0))}
            found.append(Received(message.routing_key, told | mode, message.body))
    return found
