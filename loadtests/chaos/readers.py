"""
Readers of the feed: by long polls, by a stream, as a webhook endpoint and as consumers of brokers.

They write down what they are told.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import aiohttp
from aiohttp import web
from aiokafka.errors import KafkaError

from loadtests.books import patient
from loadtests.brokers import Broker
from loadtests.chaos.rig import Rig
from loadtests.client import PAGE_MAX, NoAnswer
from loadtests.history.feed import POLL, READERS, STREAM, WEBHOOK
from loadtests.history.recorder import Recorder
from loadtests.processes import HOST, answers
from loadtests.servers import tallystick

# Where brokers keep the events of all ledgers.
PLACE = "events"
EVENTS = "/v1/events"
# Seconds that a poll waits for events: short, so that polls go to both servers often.
WAIT_SECONDS = 2
# Seconds in which a poll must be answered, and in which a stream must be connected.
ANSWER_SECONDS_MAX = 10.0
# Seconds without a word after which a stream is given up: it says something every 15 s.
SILENCE_SECONDS_MAX = 18.0
# Seconds before somebody asks again who was not answered well.
PAUSE_SECONDS = 0.1
# Answers of a service that is on its way down, or busy.
AGAIN = (429, 503)
# Seconds in which all readers are told of everything, once nothing happens any more: a webhook that was not taken is
# sent again after 5 s, and then after 30 s.
CATCH_UP_SECONDS_MAX = 60.0


class Readers:
    """All readers of all ledgers."""

    def __init__(self, rig: Rig, recorder: Recorder) -> None:
        self._rig = rig
        self._recorder = recorder
        # Positions by reader and ledger.
        self._told: dict[tuple[str, str], set[int]] = defaultdict(set)
        # Whether nothing happens any more, and the newest positions since then.
        self._over = False
        self._heads: dict[str, int] = {}

    def _note(self, reader: str, ledger: str, event: Mapping[str, Any]) -> None:
        kind = event["type"].removeprefix("tallystick.").removesuffix(".v1")
        known = {"type": kind, "position": event["position"], "subject": event["subject"]}
        data = json.dumps(event["data"], separators=(",", ":"))
        self._recorder.write({"event": "told", "reader": reader, "ledger": ledger, **known, "data": data})
        self._told[reader, ledger].add(event["position"])

    async def poll(self, ledger: str) -> None:
        """Read pages of either server in turns, until there is none any more."""
        after = 0
        for caller in itertools.cycle(self._rig.direct[ledger]):
            path, over = f"{EVENTS}?after={after}&limit={PAGE_MAX}&wait={WAIT_SECONDS}", self._over
            try:
                answer = await caller.ask("GET", path, seconds_max=ANSWER_SECONDS_MAX)
            except NoAnswer:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if answer.status != 200:
                await self._again(answer.status)
                continue
            for event in answer.json["data"]:
                self._note(POLL, ledger, event)
            after = answer.json["next_after"]
            if over and not answer.json["data"]:
                self._heads[ledger] = after
                return

    async def stream(self, ledger: str) -> None:
        """Read streams of either server in turns; each goes on behind the last event that came whole."""
        headers = {"Authorization": f"Bearer {self._rig.keys[ledger]}", "Last-Event-ID": "0"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS_MAX, sock_read=SILENCE_SECONDS_MAX)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for caller in itertools.cycle(self._rig.direct[ledger]):
                try:
                    async with session.get(f"{caller.url}{EVENTS}/stream", headers=headers) as response:
                        if response.status != 200:
                            await self._again(response.status)
                            continue
                        async for block in _blocks(response.content):
                            headers["Last-Event-ID"] = block.get("id", headers["Last-Event-ID"])
                            if "data" in block:
                                self._note(STREAM, ledger, json.loads(block["data"]))
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(PAUSE_SECONDS)

    async def receive(self, request: web.Request) -> web.Response:
        self._note(WEBHOOK, request.match_info["ledger"], await request.json())
        return web.Response(status=204)

    async def consume(self, broker: Broker) -> None:
        """Read what a broker was sent of all ledgers, whatever becomes of it."""
        while True:
            try:
                async for message in broker.follow(PLACE):
                    self._note(broker.kind, message.event["source"].removeprefix("/ledgers/"), message.event)
            except (OSError, KafkaError, *aio_pika.exceptions.CONNECTION_EXCEPTIONS):
                pass
            await asyncio.sleep(PAUSE_SECONDS)

    async def _again(self, status: int) -> None:
        if status not in AGAIN:
            self._rig.violations.append(f"a reader of the feed was answered {status}")
        await asyncio.sleep(PAUSE_SECONDS)

    async def catch_up(self) -> None:
        """Return when all readers have been told of everything, or are late: the checks find what is missing."""
        self._over = True

        async def done() -> bool:
            return len(self._heads) == len(self._rig.direct) and all(
                len(self._told[reader, ledger]) >= head
                for ledger, head in self._heads.items()
                for reader in (*READERS, *self._rig.brokers)
            )

        await answers(done, CATCH_UP_SECONDS_MAX)


async def _blocks(stream: aiohttp.StreamReader) -> AsyncIterator[dict[str, str]]:
    """Return the fields of each block of server-sent events that has come whole."""
    fields: dict[str, str] = {}
    async for line in stream:
        if line == b"\n":
            yield fields
            fields = {}
        elif line.endswith(b"\n"):
            name, _, text = line.decode().removesuffix("\n").partition(": ")
            fields[name] = text


@asynccontextmanager
async def reading(rig: Rig, recorder: Recorder) -> AsyncIterator[Readers]:
    """Have everything read that happens while the body runs."""
    readers = Readers(rig, recorder)
    app = web.Application()
    app.router.add_post("/{ledger}", readers.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    tasks: list[asyncio.Task[None]] = []
    try:
        for ledger, (caller, *_) in rig.direct.items():
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
