"""Steps of sink tests: set sinks up, post, publish, and compare what arrived with the feed."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson

from server.background.hold_sweeper import Sweeper
from server.background.jobs import Job, keep
from server.books import Books
from server.events.feed import Event, envelope
from server.events.relay import Relay
from server.events.sinks.make import make_sink
from server.events.sinks.options import Options
from server.events.sinks.publisher import SinkPublisher
from server.events.sinks.sink import Message, Sink
from server.events.sinks.store import Sinks
from server.store.background import stop
from tests.support.brokers import Received
from tests.support.client import Client, new_key
from tests.support.command import NO_REDIS, call
from tests.support.postgres import administer
from tests.support.service import Service, leader_books
from tests.support.waiting import until

# Seconds in which all events arrive, including restarts of brokers.
ARRIVE_SECONDS = 60.0
ACCOUNTS = ("alice", "bob", "carol", "dave")
_names = itertools.count(1)


def new_name() -> str:
    """Return a name of a sink, topic or exchange that no other test uses."""
    return f"sink-{next(_names)}"


async def sinks(service: Service, *words: str, code: int = 0) -> str:
    """Run `tallystick sinks` and return its output."""
    end = await call("sinks", *words, database_url=service.database_url, redis_url=NO_REDIS)
    assert end.code == code, end
    return end.err if code else end.out


async def status(service: Service, name: str) -> Any:
    """Return the status of a sink."""
    [found] = [row for row in orjson.loads(await sinks(service, "status", "--json")) if row["name"] == name]
    return found


class Publishing(NamedTuple):
    """A process that relays and publishes."""

    publisher: SinkPublisher
    sweeper: Sweeper
    books: Books
    database_url: str

    async def settled(self, *names: str) -> None:
        """Return when every committed change has its position and these sinks have been sent it."""
        database = self.books.database
        sinks = Sinks(database)

        async def relayed() -> bool:
            return not await administer(self.database_url, "SELECT FROM tallystick.outbox LIMIT 1")

        async def sent() -> bool:
            rows = [row for row in await sinks.rows() if row.name in names]
            assert len(rows) == len(names)
            return not any([(await sinks.lag(row)).events for row in rows])

        await until(relayed)
        try:
            await until(sent, ARRIVE_SECONDS)
        except TimeoutError as error:
            raise AssertionError(f"not settled: {await sinks.rows()}") from error

    async def events(self) -> dict[str, Event]:
        """Return the feeds of all ledgers, by the ids of events."""
        found: dict[str, Event] = {}
        for row in await self.books.database.read("ledger_list"):
            after, head = 0, 1
            while after < head:
                page = await self.books.feed.page(row["id"], after, 1_000)
                found |= {f"{row['name']}/{event.position}": event for event in page.events}
                after, head = page.next_after, page.head
        return found


@asynccontextmanager
async def publishing(
    service: Service, make: Callable[[Options], Sink] = make_sink, *, works: bool = True
) -> AsyncIterator[Publishing]:
    """
    Relay and publish as a leader does.

    Args:
        works: Whether it runs them; if not, another process does.
    """
    async with leader_books(service) as books:
        publisher = SinkPublisher(books.database, books.feed, make=make)
        sweeper = Sweeper(books.database, books.posting)
        jobs: list[Job] = [publisher, sweeper, Relay(service.database_url, [publisher.tell])]
        running = [asyncio.create_task(keep(job)) for job in jobs if works]
        try:
            yield Publishing(publisher, sweeper, books, service.database_url)
        finally:
            await stop(*running)


async def opened(service: Service, ledger: str) -> Client:
    """Return a client of a ledger with funded accounts."""
    client = await service.client(ledger)
    for account in ACCOUNTS:
        await client.fund(account, 1_000)
    return client


async def post(client: Client, number: int = 20) -> None:
    """Post transfers of several accounts, singly at once and in bulks."""
    pairs = list(itertools.permutations(ACCOUNTS, 2))
    items = [
        {"key": new_key(), "source": source, "destination": destination, "amount": 1, "currency": "EUR"}
        for source, destination in itertools.islice(itertools.cycle(pairs), number)
    ]
    parts = [items[start : start + 7] for start in range(0, number, 7)]
    for answer in await asyncio.gather(*(client.post("/v1/transfers/bulk", {"transfers": part}) for part in parts)):
        assert answer.status == 200, answer


async def every_type(client: Client) -> None:
    """Cause an event of every type."""
    await post(client)
    assert (await client.transfer("alice", "nobody", 1)).status == 404
    hold, other, short = [
        (await client.transfer("bob", "carol", 5, hold=True, expires_in=seconds)).json["id"] for seconds in (60, 60, 1)
    ]
    paid = (await client.transfer("bob", "carol", 5)).json["id"]
    for parent, verb in ((hold, "capture"), (other, "void"), (paid, "reverse")):
        headers = {"Idempotency-Key": new_key()}
        answer = await client.send("POST", f"/v1/transfers/{parent}/{verb}", {}, headers=headers)
        assert answer.status == 201, answer
    assert short
    for changes in ({"metadata": {"colour": "blue"}}, {"closed": True}):
        assert (await client.send("PATCH", "/v1/accounts/dave", changes)).status == 200


def assert_arrived(received: Sequence[Received], events: dict[str, Event]) -> None:
    """
    Fail unless every event arrived as it is in the feed, and those of each account in order.

    An event may arrive more than once; its first arrival counts.
    """
    found: dict[str, Received] = {}
    for message in received:
        found.setdefault(message.event["id"], message)
    assert found.keys() == events.keys()
    order: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for id_, message in found.items():
        ledger = id_.rpartition("/")[0]
        assert message.body == envelope(events[id_], ledger)
        order[ledger, events[id_].account].append(events[id_].position)
    assert all(positions == sorted(positions) for positions in order.values())


class Recorder:
    """
    A sink for tests of the publisher that need no broker: it keeps what it is sent.

    Args:
        target: The topic that its options name.
    """

    def __init__(self, book: "Book", target: str) -> None:
        self._book = book
        self._target = target

    async def open(self) -> None:
        """Connect."""
        self._book.opened += 1

    async def send(self, messages: Sequence[Message]) -> None:
        """Accept messages up to the first one that fails."""
        self._book.batches[self._target].append(len(messages))
        for message in messages:
            if error := self._book.judge(self._target, message):
                raise error
            self._book.received[self._target].append(message)

    async def close(self) -> None:
        """Do nothing."""
        self._book.closed += 1


class Book:
    """Keeps what recorders were sent, by the topics of the sinks; `judge` decides which messages fail."""

    def __init__(self, judge: Callable[[str, Message], Exception | None] = lambda _, __: None) -> None:
        self.judge = judge
        self.received: defaultdict[str, list[Message]] = defaultdict(list)
        self.batches: defaultdict[str, list[int]] = defaultdict(list)
        self.opened = 0
        self.closed = 0

    def make(self, options: Options) -> Sink:
        """Make a recorder."""
        return Recorder(self, options.target.partition(" ")[0])

    def positions(self, topic: str, ledger: str) -> list[int]:
        """Return the positions of a ledger that have arrived."""
        return [message.event.position for message in self.received[topic] if message.ledger == ledger]
