"""If the background process is killed between a batch, its confirmation and its storage, all events arrive in order."""

from pathlib import Path

from loadtests.brokers import RabbitMQ
from tests.sinks.steps import assert_arrived, new_name, opened, post, publishing, sinks
from tests.support.background import BackgroundProcess
from tests.support.brokers import received
from tests.support.service import Service

FAILPOINTS = ("sinks.before_batch", "sinks.confirmed", "sinks.stored")


async def test_killed(own: Service, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Events that were confirmed but whose position was not stored are sent again, and none is left out."""
    name = new_name()
    await rabbitmq.prepare(name)
    await sinks(own, "create", "rabbitmq", "--name", name, "--from-position", "start", *rabbitmq.target(name))
    client = await opened(own, "books")
    process = BackgroundProcess(own.database_url, tmp_path / "log")
    try:
        for failpoint in FAILPOINTS:
            await post(client, 100)
            process.environment["TALLYSTICK_FAILPOINTS"] = f"{failpoint}=kill@4"
            await process.start()
            assert await process.wait() == -9
        process.environment["TALLYSTICK_FAILPOINTS"] = ""
        await process.start()
        async with publishing(own, works=False) as running:
            await running.settled(name)
            events = await running.events()
    finally:
        await process.stop()
    messages = await received(rabbitmq, name)
    assert_arrived(messages, events)
    assert len(messages) > len(events)
