"""Apache Kafka and RabbitMQ as child processes of tests: real ones, on ports of loopback."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import aio_pika
import aiokafka
import orjson
import yarl
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from loadtests.processes import DIE_WITH_US, free_port
from tests.support.balancer import missing
from tests.support.waiting import until

KAFKA_VERSION = "4.1.1"
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# Seconds that a broker gets to answer, or to end.
START_SECONDS = 60.0
STOP_SECONDS = 15.0
# Seconds for which a broker is listened to that has nothing more to say.
QUIET_SECONDS = 1.0
# Bytes of a message that brokers take here.
MESSAGE_MAX_BYTES = 20_000
# Partitions of a topic.
PARTITIONS = 3
# Who may connect to Kafka's second listener.
USERNAME, PASSWORD = "tally", "right"


class Received(NamedTuple):
    """A message as a consumer gets it."""

    # The key of Kafka, or the routing key of RabbitMQ.
    key: str | None
    headers: Mapping[str, Any]
    body: bytes

    @property
    def event(self) -> Any:
        """The event, decoded."""
        return orjson.loads(self.body)


class Broker:
    """
    A broker.

    Args:
        folder: For its files.
    """

    kind: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._child: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "log"

    async def start(self) -> None:
        """Start it and return when it answers."""
        self._child = await self._run(*self._command())
        child = self._child

        async def answers() -> bool:
            assert child.returncode is None, self.log.read_text()[-3_000:]
            return await self._answers()

        await until(answers, START_SECONDS)

    async def kill(self) -> None:
        """End it as a power cut does."""
        assert self._child is not None
        self._child.kill()
        await self._child.wait()

    async def stop(self) -> None:
        """End it, whatever state it is in."""
        await _end(self._child)

    def target(self, name: str) -> list[str]:
        """Return the arguments of a sink that leads to a place of its own."""
        raise NotImplementedError

    async def prepare(self, name: str) -> None:
        """Make a place that keeps what it is sent."""
        raise NotImplementedError

    async def received(self, name: str) -> list[Received]:
        """Return all that has arrived there, of each key in the order of its arrival."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    async def _answers(self) -> bool:
        raise NotImplementedError

    async def _run(self, *command: str, **variables: str) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *DIE_WITH_US,
                *command,
                cwd=self.folder,
                env={**os.environ, **variables},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class Kafka(Broker):
    """One broker that is its own controller; its second listener asks for a password."""

    kind = "kafka"
    _PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SECURE:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.secure.sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config={login} required user_{username}="{password}";
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

    def __init__(self, folder: Path, jars: Path) -> None:
        super().__init__(folder)
        self._jars = jars
        self.secure_port = free_port()
        self._properties = folder / "server.properties"
        self._properties.write_text(
            self._PROPERTIES.format(
                port=self.port,
                secure=self.secure_port,
                controller=free_port(),
                folder=folder,
                login="org.apache.kafka.common.security.plain.PlainLoginModule",
                username=USERNAME,
                password=PASSWORD,
                message_max=MESSAGE_MAX_BYTES,
            )
        )

    async def start(self) -> None:
        """Format its folder the first time, and start it."""
        if not (self.folder / "data").exists():
            arguments = ("format", "--cluster-id", "4L6g3nShT-eMCtK--X86sw", "--config", str(self._properties))
            child = await self._run(*self._java("kafka.tools.StorageTool"), *arguments)
            assert await asyncio.wait_for(child.wait(), START_SECONDS) == 0, self.log.read_text()
        await super().start()

    def target(self, name: str) -> list[str]:
        """Return the arguments of a sink that leads to a topic."""
        return ["--bootstrap", f"127.0.0.1:{self.port}", "--topic", name]

    async def prepare(self, name: str, **config: str) -> None:
        """Make a topic."""
        async with self._admin() as admin:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config)])

    async def received(self, name: str) -> list[Received]:
        """Return all records of a topic."""
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=f"127.0.0.1:{self.port}", enable_auto_commit=False, auto_offset_reset="earliest"
        )
        found = []
        await consumer.start()
        try:
            places = [aiokafka.TopicPartition(name, number) for number in range(PARTITIONS)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(place) < ends[place] for place in places]):
                records = await consumer.getmany(timeout_ms=1_000)
                found += [record for of_place in records.values() for record in of_place]
        finally:
            await consumer.stop()
        return [
            Received(
                None if record.key is None else record.key.decode(),
                {key: value.decode() for key, value in record.headers},
                record.value,
            )
            for record in found
        ]

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.port}")
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    def _java(self, program: str) -> list[str]:
        # Starts fast and stays small; a test asks for no more.
        machine = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        return ["java", *machine, "-cp", f"{self._jars}/*", program]

    def _command(self) -> list[str]:
        return [*self._java("kafka.Kafka"), str(self._properties)]

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            async with self._admin() as admin:
                await admin.list_topics()
        except (OSError, KafkaError):
            return False
        return True


class RabbitMQ(Broker):
    """One node, with a port mapper of its own that ends with it."""

    kind = "rabbitmq"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._mapper_port = free_port()
        self._mapper: asyncio.subprocess.Process | None = None
        (folder / "rabbitmq.conf").write_text(f"max_message_size = {MESSAGE_MAX_BYTES}\n")
        (folder / "enabled_plugins").write_text("[].\n")
        self._variables = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"tallystick-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            # The node takes the place of the script that starts it.
            "detached": "true",
        }

    async def start(self) -> None:
        """Start the port mapper, unless it runs, and the node."""
        if self._mapper is None:
            self._mapper = await self._run("epmd", "-address", "127.0.0.1", "-port", str(self._mapper_port))
        await super().start()

    async def stop(self) -> None:
        """End both."""
        await super().stop()
        await _end(self._mapper)

    @property
    def url(self) -> str:
        """Its address."""
        return f"amqp://127.0.0.1:{self.port}/"

    def target(self, name: str) -> list[str]:
        """Return the arguments of a sink that leads to an exchange."""
        return ["--url", self.url, "--exchange", name]

    async def prepare(self, name: str, binding: str = "#", arguments: Mapping[str, Any] | None = None) -> None:
        """Make an exchange and a queue that gets all that it is sent, or some of it."""
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(name, durable=True, arguments=dict(arguments or {}))
            await queue.bind(exchange, binding)

    async def received(self, name: str) -> list[Received]:
        """Return all messages of a queue, which keeps them."""
        found = []
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(name, passive=True)
            while message := await queue.get(no_ack=False, fail=False):
                found.append(message)
        # What is not acknowledged goes back, in its order.
        return [
            Received(
                message.routing_key,
                {
                    "content-type": message.content_type,
                    "id": message.message_id,
                    "type": message.type,
                    "mode": str(int(message.delivery_mode or 0)),
                },
                message.body,
            )
            for message in found
        ]

    def _command(self) -> list[str]:
        return [str(RABBITMQ)]

    async def _run(self, *command: str, **variables: str) -> asyncio.subprocess.Process:
        return await super()._run(*command, **self._variables)

    async def _answers(self) -> bool:
        # One that cannot be opened has to be closed too.
        async with aio_pika.Connection(yarl.URL(self.url)) as connection:
            try:
                await connection.connect()
            except aio_pika.exceptions.CONNECTION_EXCEPTIONS:
                return False
        return True


def kafka_jars() -> Path:
    """Return the folder with Kafka, or leave the test out where it is not installed; in CI fail."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tallystick" / f"kafka-{KAFKA_VERSION}"
    jars = Path(os.environ.get("KAFKA_JARS") or default)
    if not (jars / "complete").exists():
        missing("Kafka is not there (scripts/kafka.sh fetches it)")
    if shutil.which("java") is None:
        missing("Java is not installed (Debian: apt-get install openjdk-17-jre-headless)")
    return jars


def check_rabbitmq() -> None:
    """Leave the test out where RabbitMQ is not installed; in CI fail."""
    if not RABBITMQ.exists():
        missing("RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)")


async def _end(child: asyncio.subprocess.Process | None) -> None:
    if child is None or child.returncode is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(child.wait(), STOP_SECONDS)
    except TimeoutError:
        child.kill()
        await child.wait()
