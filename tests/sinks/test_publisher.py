"""The publisher with any broker: which events a sink gets, from which position, and how it goes on after an error."""

from itertools import pairwise

import pytest

from server.events.sinks import publisher
from server.events.sinks import publishing as module
from server.events.sinks.publishing import PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS, pause_seconds
from server.events.sinks.sink import AwayError, Message, RefusedError
from tests.sinks.steps import Book, opened, post, publishing, sinks, status
from tests.support.service import Service
from tests.support.waiting import until


async def create(service: Service, name: str, *words: str) -> None:
    """Set up a sink that sends to a recorder."""
    await sinks(service, "create", "kafka", "--name", name, "--bootstrap", "nowhere:1", "--topic", name, *words)


def upto(number: int) -> list[int]:
    """Return the positions up to this number."""
    return list(range(1, number + 1))


async def test_who_is_sent_what(own: Service) -> None:
    """A sink gets the events of all ledgers or of one, from the first event or from the next."""
    book = Book()
    one, two = await opened(own, "one"), await opened(own, "two")
    async with publishing(own, book.make) as running:
        await create(own, "old", "--from-position", "start")
        await running.settled("old")
        heads = [book.positions("old", ledger)[-1] for ledger in ("one", "two")]
        await create(own, "new")
        await create(own, "new-of-one", "--ledger", "one")
        await create(own, "old-of-two", "--ledger", "two", "--from-position", "start")
        await post(one, 5)
        await post(two, 5)
        await post(await opened(own, "three"), 5)
        await running.settled("old", "new", "new-of-one", "old-of-two")
        last = book.positions("old", "three")[-1]
    for ledger, head in zip(("one", "two"), heads, strict=True):
        assert book.positions("old", ledger) == upto(head + 5)
    assert book.positions("new", "one") == book.positions("new-of-one", "one") == upto(heads[0] + 5)[heads[0] :]
    assert book.positions("new", "two") == upto(heads[1] + 5)[heads[1] :]
    # In a ledger that is made later, it begins with the first event.
    assert book.positions("new", "three") == book.positions("old", "three") == upto(last)
    assert {message.ledger for message in book.received["new-of-one"]} == {"one"}
    assert book.positions("old-of-two", "two") == upto(heads[1] + 5)
    assert {message.ledger for message in book.received["old-of-two"]} == {"two"}


async def test_paused_and_removed(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A paused sink keeps its position. A removed sink is forgotten, with its metrics, and a new one with its name begins
    anew.
    """
    monkeypatch.setattr(publisher, "LOOK_SECONDS", 0.02)
    book = Book()
    client = await opened(own, "books")
    await create(own, "other", "--from-position", "start")
    await create(own, "mine", "--from-position", "start")
    async with publishing(own, book.make) as running:
        await running.settled("other", "mine")
        head = book.positions("mine", "books")[-1]
        await sinks(own, "pause", "mine")
        await until(lambda: book.closed == 1)
        await post(client, 5)
        await running.settled("other")
        assert book.positions("mine", "books") == upto(head)
        assert (await status(own, "mine"))["lag_events"] == 5
        await sinks(own, "resume", "mine")
        await running.settled("mine")
        assert book.positions("mine", "books") == upto(head + 5)
        await sinks(own, "delete", "mine")
        await until(lambda: book.closed == 2)
        await post(client, 5)
        await running.settled("other")
        assert book.positions("mine", "books") == upto(head + 5)
        await until(lambda: {sample.labels[0] for sample in running.publisher.samples()} == {"other"})
        await create(own, "mine", "--from-position", "start")
        await running.settled("mine")
    assert book.positions("mine", "books") == [*upto(head + 5), *upto(head + 10)]


async def test_the_event_that_is_refused(own: Service) -> None:
    """A refused event is found in its batch: all events before it arrive, and none after it in any ledger."""
    refused: set[str] = set()
    book = Book(lambda _, message: RefusedError("never") if message.id in refused else None)
    client = await opened(own, "books")
    await post(client, 200)

    async def halted() -> bool:
        return bool((await status(own, "sink"))["state"] == "halted")

    async with publishing(own, book.make) as running:
        await create(own, "all", "--from-position", "start")
        await running.settled("all")
        head = book.positions("all", "books")[-1]
        refused.add(f"books/{head - 20}")
        await create(own, "sink", "--from-position", "start")
        await until(halted)
        found = await status(own, "sink")
        assert (found["refused"], found["error"]) == (f"books/{head - 20}", "never")
        assert found["lag_events"] == 21
        assert sorted(set(book.positions("sink", "books"))) == upto(head - 21)
        refused.clear()
        await sinks(own, "resume", "sink")
        await running.settled("sink")
        assert sorted(set(book.positions("sink", "books"))) == upto(head)
        samples = {(sample.name, *sample.labels): sample.value for sample in running.publisher.samples()}
    assert samples["tallystick_sink_events_total", "sink", "refused"] == 1
    assert samples["tallystick_sink_events_total", "sink", "confirmed"] == head


async def test_one_that_is_away_holds_up_nobody(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that is away delays no other; it is retried with one event, and then with more and more."""
    monkeypatch.setattr(module, "PAUSE_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(module, "PAUSE_MAX_SECONDS", 0.05)
    away = True
    book = Book(lambda topic, _: AwayError("gone fishing") if away and topic == "away" else None)
    client = await opened(own, "books")
    for name in ("away", "there"):
        await create(own, name, "--from-position", "start")
    async with publishing(own, book.make) as running:
        await until(lambda: len(book.batches["away"]) > 3)
        await post(client, 100)
        await running.settled("there")
        found = await status(own, "away")
        assert found["error"] == "gone fishing"
        assert found["failing_since"] is not None
        assert found["lag_events"] == book.positions("there", "books")[-1]
        assert found["lag_seconds"] > 0
        assert set(book.batches["away"]) == {1}
        away = False
        await running.settled("away")
        assert (await status(own, "away"))["failing_since"] is None
    assert book.positions("away", "books") == book.positions("there", "books")
    grown = [size for size in book.batches["away"] if size > 1]
    assert grown[:3] == [2, 4, 8]


async def test_what_was_not_noted_is_sent_again(own: Service) -> None:
    """
    A new leader goes on from the stored positions, and after an error a ledger goes on in the middle of its batch.
    """
    book = Book(lambda _, message: AwayError("cut off") if message.event.position == 30 and not seen(message) else None)
    tried: set[str] = set()

    def seen(message: Message) -> bool:
        known = message.id in tried
        tried.add(message.id)
        return known

    client = await opened(own, "books")
    await post(client, 60)
    await create(own, "sink", "--from-position", "start")
    async with publishing(own, book.make) as running:
        await running.settled("sink")
    arrived = book.positions("sink", "books")
    firsts = list(dict.fromkeys(arrived))
    assert firsts == upto(firsts[-1])
    assert len(arrived) > len(firsts)
    # A large batch failed, and the next one has a single event.
    sizes = book.batches["sink"]
    assert next(after for size, after in pairwise(sizes) if after < size > 2) == 1
    async with publishing(own, book.make) as running:
        await post(client, 1)
        await running.settled("sink")
    assert book.positions("sink", "books") == [*arrived, firsts[-1] + 1]


async def test_large_events_are_sent_in_small_batches(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is also limited in bytes, and the next one goes on where it was cut."""
    monkeypatch.setattr(module, "BYTES_MAX", 2_000)
    book = Book()
    client = await opened(own, "books")
    await post(client, 40)
    await create(own, "sink", "--from-position", "start")
    async with publishing(own, book.make) as running:
        await running.settled("sink")
    positions = book.positions("sink", "books")
    assert positions == upto(positions[-1])
    assert 1 < max(book.batches["sink"]) < 10


async def test_many_ledgers_take_turns(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that is far behind delays no other."""
    monkeypatch.setattr(module, "EVENTS_MAX", 8)
    monkeypatch.setattr(module, "LEDGERS_MAX", 4)
    book = Book()
    await post(await opened(own, "long"), 200)
    async with publishing(own, book.make) as running:
        for number in range(10):
            await own.client(f"short-{number}")
            await (await own.client(f"short-{number}")).open("world", floor=None)
        await create(own, "sink", "--from-position", "start")
        await running.settled("sink")
    order = [message.ledger for message in book.received["sink"]]
    assert all(f"short-{number}" in order[:100] for number in range(10))
    assert max(book.batches["sink"]) <= 8
    positions = book.positions("sink", "long")
    assert positions == upto(positions[-1])


async def test_a_fault_is_tried_again(own: Service, caplog: pytest.LogCaptureFixture) -> None:
    """An internal error does not end a sink: it is logged and the batch is sent again."""
    faults = [ZeroDivisionError()]
    book = Book(lambda _, __: faults.pop() if faults else None)
    await opened(own, "books")
    await create(own, "sink", "--from-position", "start")
    async with publishing(own, book.make) as running:
        await running.settled("sink")
    assert "sending to the sink sink failed" in caplog.text


def test_pauses() -> None:
    """Pauses begin short and grow to a maximum."""
    pauses = [pause_seconds(failures) for failures in range(1, 100)]
    assert pauses[0] == PAUSE_FIRST_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_SECONDS
