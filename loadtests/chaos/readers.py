"""
Readers of the feed: by long polls, by a stream, as a webhook endpoint and as consumers of brokers.

They record the events that they get.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import aiohttp
import msgspec
from aiohttp import web
from aiokafka.errors import KafkaError

from loadtests.books import patient
from loadtests.brokers import Broker
from loadtests.chaos.rig import Rig
from loadtests.history.feed import POLL, READERS, STREAM, WEBHOOK
from loadtests.history.model import Told, noted
from loadtests.history.recorder import Recorder
from loadtests.processes import HOST, answers
from loadtests.servers import tallystick
from tallystick_client import Event, EventPage
from tallystick_client.following import PAGE_EVENTS, Lines

# Topic or queue in which brokers keep the events of all ledgers.
PLACE = "events"
EVENTS = "/v1/events"
# Seconds that a poll waits for events: short, so that both servers are polled often.
WAIT_SECONDS = 2
# Seconds in which a poll must be answered, and a stream connected.
ANSWER_SECONDS_MAX = 10.0
# A stream that is silent for so many seconds is given up: the server sends something every 15 s.
SILENCE_SECONDS_MAX = 18.0
# Seconds before a reader asks again after no or a bad answer.
PAUSE_SECONDS = 0.1
# Statuses after which a reader asks again: no answer, or a service that is shutting down or busy.
AGAIN = (0, 429, 503)
# Seconds in which all readers get all events, once the traffic has ended: a webhook that was not accepted is sent again
# after 5 s, and then after 30 s.
CATCH_UP_SECONDS_MAX = 60.0


class Readers:
    """All readers of all ledgers."""

    def __init__(self, rig: Rig, recorder: Recorder) -> None:
        self._rig = rig
        self._recorder = recorder
        # Positions by reader and ledger.
        self._told: dict[tuple[str, str], set[int]] = defaultdict(set)
        # Whether the traffic has ended, and the newest positions since then.
        self._over = False
        self._heads: dict[str, int] = {}

    def _note(self, reader: str, ledger: str, event: Event) -> None:
        data = json.dumps(event.data, separators=(",", ":"))
        told = Told(reader, ledger, event.position, event.name, event.subject or "", data)
        self._recorder.write(noted(told))
        self._told[reader, ledger].add(event.position)

    async def poll(self, ledger: str) -> None:
        """Read pages from the servers in turn, until the traffic has ended and no page is left."""
        after = 0
        for caller in itertools.cycle(self._rig.callers[ledger]):
            path, over = f"{EVENTS}?after={after}&limit={PAGE_EVENTS}&wait={WAIT_SECONDS}", self._over
            heard = await caller.ask("GET", path, seconds_max=ANSWER_SECONDS_MAX)
            if heard.status != 200:
                await self._again(heard.status)
                continue
            page = msgspec.json.decode(heard.response, type=EventPage)
            for event in page.data:
                self._note(POLL, ledger, event)
            after = page.next_after
            if over and not page.data:
                self._heads[ledger] = after
                return

    async def stream(self, ledger: str) -> None:
        """Read streams of the servers in turn; each resumes after the last event that arrived whole."""
        headers = {"Authorization": f"Bearer {self._rig.keys[ledger]}", "Last-Event-ID": "0"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS_MAX, sock_read=SILENCE_SECONDS_MAX)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for caller in itertools.cycle(self._rig.callers[ledger]):
                try:
                    async with session.get(f"{caller.url}{EVENTS}/stream", headers=headers) as response:
                        if response.status != 200:
                            await self._again(response.status)
                            continue
                        lines = Lines()
                        async for piece in response.content.iter_any():
                            for found in lines.take(piece):
                                if isinstance(found, Event):
                                    self._note(STREAM, ledger, found)
                                position = found.position if isinstance(found, Event) else found
                                headers["Last-Event-ID"] = str(position)
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(PAUSE_SECONDS)

    async def receive(self, request: web.Request) -> web.Response:
        self._note(WEBHOOK, request.match_info["ledger"], msgspec.json.decode(await request.read(), type=Event))
        return web.Response(status=204)

    async def consume(self, broker: Broker) -> None:
        """Consume the events of all ledgers from a broker, whatever happens to the broker."""
        while True:
            try:
                async for body in broker.follow(PLACE):
                    event = msgspec.json.decode(body, type=Event)
                    self._note(broker.kind, event.source.removeprefix("/ledgers/"), event)
            except (OSError, KafkaError, *aio_pika.exceptions.CONNECTION_EXCEPTIONS):
                pass
            await asyncio.sleep(PAUSE_SECONDS)

    async def _again(self, status: int) -> None:
        if status not in AGAIN:
            self._rig.violations.append(f"a reader of the feed was answered {status}")
        await asyncio.sleep(PAUSE_SECONDS)

    async def catch_up(self) -> None:
        """Return when all readers have got all events, or are late: the checks find what is missing."""
        self._over = True

        async def done() -> bool:
            return len(self._heads) == len(self._rig.callers) and all(
                len(self._told[reader, ledger]) >= head
                for ledger, head in self._heads.items()
                for reader in (*READERS, *self._rig.brokers)
            )

        await answers(done, CATCH_UP_SECONDS_MAX)


@asynccontextmanager
async def reading(rig: Rig, recorder: Recorder) -> AsyncIterator[Readers]:
    """Read all events that happen while the body runs."""
    readers = Readers(rig, recorder)
    app = web.Application()
    app.router.add_post("/{ledger}", readers.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    tasks: list[asyncio.Task[None]] = []
    try:
        for ledger, (caller, *_) in rig.callers.items():
            url = f"http://{HOST}:{runner.addresses[0][1]}/{ledger}"
            async with patient(caller.url, rig.keys[ledger]) as client:
                await client.webhook_endpoints.create(url)
            tasks += [asyncio.create_task(read(ledger)) for read in (readers.poll, readers.stream)]
        for broker in rig.brokers.values():
            await broker.prepare(PLACE)
            words = ("--name", broker.kind, "--from-position", "start", *broker.target(PLACE))
            await tallystick("sinks", "create", broker.kind, *words, settings=rig.servers[0].settings)
            tasks.append(asyncio.create_task(readers.consume(broker)))
        yield readers
    finally:
        for task in tasks:
            task.cancel()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(error, Exception):
                rig.violations.append(f"a reader of the feed ended by itself: {error!r}")
        await runner.cleanup()
