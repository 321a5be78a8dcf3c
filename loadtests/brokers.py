"""Runs real Apache Kafka and RabbitMQ on loopback ports; tests may break them and start them again."""

import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import aio_pika
import aiokafka
import yarl
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from loadtests.errors import NotRunError
from loadtests.processes import HOST, Program, answers, free_port, spawn, tail

KAFKA_VERSION = "4.1.1"
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# Seconds that a broker gets to answer, even on a busy machine.
START_SECONDS_MAX = 60.0
# The largest message in bytes that these brokers accept.
MESSAGE_MAX_BYTES = 20_000
# Partitions of a topic.
PARTITIONS = 3
# Unacknowledged messages that a consumer of RabbitMQ may hold.
PREFETCH = 1_000


class Broker(Program):
    kind: ClassVar[str]
    _command: list[str]

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__()
        folder.mkdir()
        self.folder, self.log, self.port = folder, log, free_port()
        self._environment: dict[str, str] = {**os.environ}

    @classmethod
    def missing(cls) -> str | None:
        """Return why the broker cannot be started on this machine; None if it can."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start the broker and return when it answers."""
        self._process = spawn(self._command, self.log, self._environment)

        async def probe() -> bool:
            return self.ended or await self._answers()

        errors = (KafkaError, *aio_pika.exceptions.CONNECTION_EXCEPTIONS)
        if not await answers(probe, START_SECONDS_MAX, *errors) or self.ended:
            raise NotRunError(f"{self.kind} does not answer:\n{tail(self.log)}")

    def target(self, name: str) -> list[str]:
        """Return the arguments of a sink that sends to a topic or queue of this name."""
        raise NotImplementedError

    async def prepare(self, name: str) -> None:
        """Create the topic or queue that keeps what the sink sends."""
        raise NotImplementedError

    def follow(self, name: str) -> AsyncGenerator[bytes, None]:
        """Yield the messages that arrive there; the messages of each key come in the order of their arrival."""
        raise NotImplementedError

    async def _answers(self) -> bool:
        raise NotImplementedError


class Kafka(Broker):
    """Runs one Kafka broker that is its own controller."""

    kind = "kafka"
    _PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
message.max.bytes={message_max}
log.index.size.max.bytes=100000
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
"""

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(folder, log)
        self.properties = folder / "server.properties"
        self._command = [*self._java("kafka.Kafka"), str(self.properties)]
        fields = {"port": self.port, "controller": free_port(), "folder": folder, "message_max": MESSAGE_MAX_BYTES}
        self.properties.write_text(self._PROPERTIES.format(**fields))

    @classmethod
    def missing(cls) -> str | None:
        if not (cls._jars() / "complete").exists():
            return "Kafka is not there (scripts/kafka.sh fetches it)"
        if shutil.which("java") is None:
            return "Java is not installed (Debian: apt-get install openjdk-17-jre-headless)"
        return None

    async def start(self) -> None:
        if not (self.folder / "data").exists():
            arguments = ("format", "--cluster-id", "4L6g3nShT-eMCtK--X86sw", "--config", str(self.properties))
            once = Program(spawn([*self._java("kafka.tools.StorageTool"), *arguments], self.log))
            if not await once.ends_within(START_SECONDS_MAX) or once.code != 0:
                raise NotRunError(f"Kafka cannot format its folder:\n{tail(self.log)}")
        await super().start()

    def target(self, name: str) -> list[str]:
        return ["--bootstrap", f"{HOST}:{self.port}", "--topic", name]

    async def prepare(self, name: str) -> None:
        async with self._admin() as admin:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1)])

    async def follow(self, name: str) -> AsyncGenerator[bytes, None]:
        async with self.consumer(name) as consumer:
            async for record in consumer:
                yield record.value

    @asynccontextmanager
    async def consumer(self, name: str) -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
        address, earliest = f"{HOST}:{self.port}", "earliest"
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset=earliest) as consumer:
            consumer.assign([aiokafka.TopicPartition(name, number) for number in range(PARTITIONS)])
            yield consumer

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=f"{HOST}:{self.port}")
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    @staticmethod
    def _jars() -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Path(os.environ.get("KAFKA_JARS") or cache / "tallystick" / f"kafka-{KAFKA_VERSION}")

    def _java(self, program: str) -> list[str]:
        # Options for a fast start and little memory; these programs need no more.
        machine = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        return ["java", *machine, "-cp", f"{self._jars()}/*", program]

    async def _answers(self) -> bool:
        async with self._admin() as admin:
            await admin.list_topics()
        return True


class RabbitMQ(Broker):
    """Runs one RabbitMQ node, with its own port mapper that ends with it."""

    kind = "rabbitmq"
    _command = [str(RABBITMQ)]  # noqa: RUF012 -- never changed

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(folder, log)
        self.url = f"amqp://{HOST}:{self.port}/"
        self._mapper: Program | None = None
        self._mapper_port = free_port()
        (folder / "rabbitmq.conf").write_text(f"max_message_size = {MESSAGE_MAX_BYTES}\n")
        (folder / "enabled_plugins").write_text("[].\n")
        self._environment |= {
            "HOME": str(folder),
            "ERL_CRASH_DUMP": str(folder / "crash"),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"tallystick-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            # With this, the node replaces the script that starts it.
            "detached": "true",
        }

    @classmethod
    def missing(cls) -> str | None:
        return None if RABBITMQ.exists() else "RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"

    async def start(self) -> None:
        if self._mapper is None:
            command = ["epmd", "-address", HOST, "-port", str(self._mapper_port)]
            self._mapper = Program(spawn(command, self.log, self._environment))
        await super().start()

    async def close(self) -> None:
        await super().close()
        if self._mapper is not None:
            await self._mapper.close()

    def target(self, name: str) -> list[str]:
        return ["--url", self.url, "--exchange", name]

    async def prepare(self, name: str, binding: str = "#", arguments: Mapping[str, Any] | None = None) -> None:
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(name, durable=True, arguments=dict(arguments or {}))
            await queue.bind(exchange, binding)

    async def follow(self, name: str) -> AsyncGenerator[bytes, None]:
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(PREFETCH)
            queue = await channel.declare_queue(name, passive=True)
            async for message in queue.iterator():
                yield message.body
                await message.ack()

    async def _answers(self) -> bool:
        # A connection that could not be opened must be closed too.
        async with aio_pika.Connection(yarl.URL(self.url)) as connection:
            await connection.connect()
        return True
