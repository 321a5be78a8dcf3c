"""With real brokers, every event arrives, and those of an account in order, whatever happens to the broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aio_pika
import pytest

from loadtests.brokers import MESSAGE_MAX_BYTES, Broker, RabbitMQ
from server.events.feed import TYPES, envelope
from server.events.sinks.make import make_sink
from server.events.sinks.options import RabbitOptions
from server.events.sinks.sink import CONTENT_TYPE, AwayError, Message, Sink
from tests.sinks.steps import assert_arrived, every_type, new_name, opened, post, publishing, sinks, status
from tests.support.brokers import SecuredKafka, received
from tests.support.service import Service
from tests.support.waiting import until

# Seconds in which an error must be reported.
AWAY_SECONDS = 30.0


async def begin(service: Service, broker: Broker, *words: str) -> str:
    """Set up a sink with a topic or exchange of its own that begins with the first event; return its name."""
    name = new_name()
    await broker.prepare(name)
    begun = ("--name", name, "--from-position", "start")
    await sinks(service, "create", broker.kind, *begun, *broker.target(name), *words)
    return name


async def fails(service: Service, name: str, text: str) -> bool:
    """Return whether a sink is failing for a reason that contains the text."""
    found = await status(service, name)
    return bool(found["failing_since"] and text in (found["error"] or ""))


async def test_every_type_arrives(own: Service, broker: Broker) -> None:
    """Events of every type arrive from two ledgers, with the key and the headers by which consumers select them."""
    name = await begin(own, broker)
    clients = [await opened(own, ledger) for ledger in ("one", "two")]
    async with publishing(own) as running:
        for client in clients:
            await every_type(client)
        await until(lambda: running.sweeper.swept == len(clients))
        await running.settled(name)
        events = await running.events()
    messages = await received(broker, name)
    assert_arrived(messages, events)
    assert {event.type for event in events.values()} == set(TYPES)
    for message in messages:
        id_ = message.event["id"]
        ledger, event = id_.rpartition("/")[0], events[id_]
        headers = {"content-type": CONTENT_TYPE}
        if broker.kind == "kafka":
            named = ("specversion", "id", "source", "type", "subject")
            headers |= {f"ce_{field}": message.event[field] for field in named}
            assert message.key == (event.account or None)
        else:
            headers |= {"id": id_, "type": message.event["type"], "mode": "2"}
            assert message.key == f"{ledger}.{event.type}"
        assert message.headers == headers


async def test_the_broker_goes_and_comes_back(own: Service, broker: Broker, impatient: None) -> None:
    """While a broker is away, postings go on and the reason is shown; afterwards all events arrive in order."""
    name = await begin(own, broker)
    client = await opened(own, "books")
    async with publishing(own) as running:
        await post(client, 50)
        await running.settled(name)
        await post(client, 300)
        await broker.close()
        await post(client, 50)
        await until(partial(fails, own, name, "c"), AWAY_SECONDS)
        await broker.start()
        await post(client, 50)
        await running.settled(name)
        events = await running.events()
    assert_arrived(await received(broker, name), events)
    assert (await status(own, name))["failing_since"] is None


async def test_two_at_once(own: Service, broker: Broker) -> None:
    """If two leaders publish, as after one was frozen, events that arrive twice are equal, and the order is kept."""
    name = await begin(own, broker)
    client = await opened(own, "books")
    async with publishing(own) as running, publishing(own):
        await post(client, 200)
        await running.settled(name)
        events = await running.events()
    assert_arrived(await received(broker, name), events)


async def test_an_event_that_is_too_large(own: Service, broker: Broker) -> None:
    """
    An event that is too large halts the sink, which names it: earlier events have arrived, and its account's others
    wait.
    """
    name = await begin(own, broker)
    client = await opened(own, "books")
    await post(client)
    large = {f"key-{number}": "x" * 500 for number in range(45)}
    assert (await client.open("large", floor=None, metadata=large)).status == 201
    assert (await client.transfer("large", "alice", 1)).status == 201
    await post(client)

    async def halted() -> bool:
        return bool((await status(own, name))["state"] == "halted")

    async with publishing(own) as running:
        await until(halted, AWAY_SECONDS)
        events = await running.events()
        [refused] = [id_ for id_, event in events.items() if event.subject == "large"]
        assert len(envelope(events[refused], "books")) > MESSAGE_MAX_BYTES
        before = {id_ for id_, event in events.items() if event.position < events[refused].position}
        arrived = {message.event["id"] for message in await received(broker, name)}
        assert before <= arrived
        assert not arrived & {id_ for id_, event in events.items() if event.account == "large"}
        # A resumed sink is refused the event again.
        await sinks(own, "resume", name)
        await until(halted, AWAY_SECONDS)
        found = await status(own, name)
        assert found["refused"] == refused
        assert "larger" in found["error"].lower()
        assert await sinks(own, "resume", name, "--skip") == f"skipped {refused}\n"
        await running.settled(name)
    del events[refused]
    assert_arrived(await received(broker, name), events)


WRONG_KAFKA = {
    "nobody listens": (["--bootstrap", "127.0.0.1:1"], "127.0.0.1:1"),
    "no such topic": (["--topic", "missing"], "UnknownTopicOrPartition"),
    "a wrong password": (
        ["--sasl", "PLAIN", "--username", SecuredKafka.USERNAME, "--password-file", "wrong"],
        "Authentication failed: Invalid username or password",
    ),
    "no password": (
        ["--sasl", "PLAIN", "--username", SecuredKafka.USERNAME, "--password-env", "NOT_SET"],
        "the background process has no environment variable NOT_SET",
    ),
    "no file": (["--sasl", "PLAIN", "--username", SecuredKafka.USERNAME, "--password-file", "no"], "no cannot be read"),
    "no TLS": (["--tls"], "cannot connect"),
    "a certificate that is none": (["--tls", "--ca-file", "wrong"], "a certificate cannot be used"),
}
WRONG_RABBITMQ = {
    "nobody listens": (["--url", "amqp://127.0.0.1:1/"], "Connect"),
    "another type of exchange": (["--exchange", "amq.direct"], "inequivalent arg 'type'"),
    "no such virtual host": (["--url", "{url}none"], "no such virtual host"),
    "nobody is bound": (["--exchange", "unbound"], "no queue is bound for the routing key books."),
    "a full queue": (["--exchange", "full"], "a queue took no message"),
    "a wrong password": (["--username", "guest", "--password-file", "wrong"], "ACCESS_REFUSED"),
    "no password": (["--username", "guest", "--password-env", "NOT_SET"], "no environment variable NOT_SET"),
}


async def assert_found_wrong(
    service: Service, broker: Broker, folder: Path, wrong: dict[str, tuple[list[str], str]], places: dict[str, str]
) -> dict[str, str]:
    """
    Set up one good sink and several wrong ones; fail unless each wrong one says why and the good one is sent
    everything.

    Returns:
        The names of the wrong sinks, by what is wrong.
    """
    (folder / "wrong").write_text("not the password")
    good = await begin(service, broker)
    names = {case: new_name() for case in wrong}
    for case, (words, _) in wrong.items():
        replaced = [places.get(word, word) for word in words]
        begun = ("--name", names[case], "--from-position", "start")
        await sinks(service, "create", broker.kind, *begun, *broker.target(names[case]), *replaced)
    client = await opened(service, "books")
    async with publishing(service) as running:
        await post(client)
        await running.settled(good)
        assert_arrived(await received(broker, good), await running.events())
        for case, (_, text) in wrong.items():
            await until(partial(fails, service, names[case], text), AWAY_SECONDS)
        said = await sinks(service, "status")
        assert "not the password" not in said
    return names


async def test_kafka_set_up_wrong(own: Service, kafka: SecuredKafka, tmp_path: Path, impatient: None) -> None:
    """Each sink reports its own mistake and delays no other; once it is corrected, the sink goes on by itself."""
    secure = ("--bootstrap", f"127.0.0.1:{kafka.secure_port}")
    wrong = {
        case: ([*(secure if "--sasl" in words else ()), *words], text) for case, (words, text) in WRONG_KAFKA.items()
    }
    places = {"missing": (missing := new_name()), "wrong": str(tmp_path / "wrong")}
    names = await assert_found_wrong(own, kafka, tmp_path, wrong, places)
    await kafka.prepare(missing)
    await kafka.prepare(names["a wrong password"])
    (tmp_path / "wrong").write_text(SecuredKafka.PASSWORD)
    async with publishing(own) as running:
        await running.settled(names["no such topic"], names["a wrong password"])
        events = await running.events()
    assert_arrived(await received(kafka, missing), events)
    assert_arrived(await received(kafka, names["a wrong password"]), events)


async def test_rabbitmq_set_up_wrong(own: Service, rabbitmq: RabbitMQ, tmp_path: Path, impatient: None) -> None:
    """Each sink reports its own mistake and delays no other; once it is corrected, the sink goes on by itself."""
    unbound, full = new_name(), new_name()
    await rabbitmq.prepare(unbound, "*.transfer.posted")
    await rabbitmq.prepare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    places = {"unbound": unbound, "full": full, "wrong": str(tmp_path / "wrong"), "{url}none": f"{rabbitmq.url}none"}
    names = await assert_found_wrong(own, rabbitmq, tmp_path, WRONG_RABBITMQ, places)
    await rabbitmq.prepare(unbound)
    await rabbitmq.prepare(names["a wrong password"])
    (tmp_path / "wrong").write_text("guest")
    async with publishing(own) as running:
        await running.settled(names["nobody is bound"], names["a wrong password"])
        events = await running.events()
    # The first event and all after it were held back, even though a queue was bound for some of them.
    assert_arrived(await received(rabbitmq, unbound), events)
    assert_arrived(await received(rabbitmq, names["a wrong password"]), events)


async def test_nothing_overtakes_what_nobody_takes(own: Service, rabbitmq: RabbitMQ) -> None:
    """An event that no queue accepts holds back the later ones of its account, even those of the same batch."""
    name = new_name()
    for binding in ("*.account.created", "*.transfer.posted"):
        await rabbitmq.prepare(name, binding)
    client = await opened(own, "books")
    await post(client)
    assert (await client.transfer("alice", "nobody", 1)).status == 404
    await post(client)
    await sinks(own, "create", "rabbitmq", "--name", name, "--from-position", "start", *rabbitmq.target(name))
    async with publishing(own) as running:
        await until(partial(fails, own, name, "for the routing key books.transfer.refused"), AWAY_SECONDS)
        events = await running.events()
        [place] = [event.position for event in events.values() if event.type == "transfer.refused"]
        arrived = [events[message.event["id"]] for message in await received(rabbitmq, name)]
        assert max(event.position for event in arrived if event.account == "alice") < place
        await rabbitmq.prepare(name)
        await sinks(own, "resume", name)
        await running.settled(name)
    assert_arrived(await received(rabbitmq, name), events)


# Bytes that the broker has received when its queue is bound again: a few events.
GONE_BYTES = 4_096


@asynccontextmanager
async def unbound_for_a_moment(broker: RabbitMQ, name: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """
    Run a proxy to the broker. Once the event is set, it unbinds the exchange's queue before it forwards the next data.

    When the broker has returned a message, the proxy binds the queue, forwards the data that came in between, and only
    then forwards the return to the sender.
    """
    armed, returned, bound = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", broker.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(outwards(reader, to_broker))
                group.create_task(back(from_broker, writer))
        finally:
            writer.close()
            to_broker.close()

    async def outwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(GONE_BYTES):
            if not armed.is_set() or bound.is_set():
                writer.write(data)
                continue
            await queue.unbind(name, "#")
            writer.write(data)
            await returned.wait()
            await queue.bind(name, "#")
            bound.set()
        writer.close()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(GONE_BYTES):
            if b"NO_ROUTE" in data:
                returned.set()
                await bound.wait()
            writer.write(data)
        writer.close()

    async with await aio_pika.connect(broker.url) as connection:
        queue = await (await connection.channel()).get_queue(name)
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            yield f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/", armed


async def test_a_queue_that_is_unbound_for_a_moment(own: Service, rabbitmq: RabbitMQ) -> None:
    """No later event of its account overtakes a returned event, even if a queue is bound again by then."""
    name = new_name()
    await rabbitmq.prepare(name)
    client = await opened(own, "books")
    await post(client, 100)
    async with publishing(own) as running:
        await running.settled()
        events = {id_: event for id_, event in (await running.events()).items() if event.account == "alice"}
    messages = [Message("books", event, envelope(event, "books")) for event in events.values()]

    @asynccontextmanager
    async def connected(url: str) -> AsyncIterator[Sink]:
        sink = make_sink(RabbitOptions(url=url, exchange=name))
        try:
            await sink.open()
            yield sink
        finally:
            await sink.close()

    async with unbound_for_a_moment(rabbitmq, name) as (url, armed), connected(url) as sink:
        # Until then, both routing keys lead to the queue.
        await sink.send(messages[:5])
        armed.set()
        with pytest.raises(AwayError, match="no queue is bound"):
            await sink.send(messages[5:])
    async with connected(rabbitmq.url) as sink:
        await sink.send(messages[5:])
    assert_arrived(await received(rabbitmq, name), events)
