"""Reads events as consumers do, and runs a relay beside a service in the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import orjson

from server.background.jobs import keep
from server.events.relay import Relay
from server.store.background import stop
from tests.support.client import Client


@asynccontextmanager
async def relaying(database_url: str) -> AsyncIterator[Relay]:
    """Relay committed events of a database, as the background process does."""
    relay = Relay(database_url)
    task = asyncio.create_task(keep(relay))
    try:
        yield relay
    finally:
        await stop(task)


class Sent(NamedTuple):
    """An event as dispatched: its type, its data and the last id at that time."""

    type: str
    data: Any
    id: str


class EventSource:
    """
    Parses server-sent events line by line as the standard says (HTML, section 9.2.6); drops an incomplete event.

    Attributes:
        last_id: The id that a client sends when it reconnects.

        retry: The milliseconds a client waits before it reconnects.

        comments: The number of comments.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry = 0
        self.comments = 0
        self._id, self._type = last_id, ""
        self._data: list[str] = []

    def take(self, line: str) -> Sent | None:
        """Return the event that this line ends, if any."""
        if line:
            self._note(line)
            return None
        self.last_id = self._id
        sent = Sent(self._type or "message", orjson.loads("\n".join(self._data)), self.last_id) if self._data else None
        self._type, self._data = "", []
        return sent

    def _note(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.comments += 1
            case "id":
                self._id = value
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "retry":
                self.retry = int(value)
            case _:
                raise AssertionError(f"no such field: {line}")


class Stream:
    """A stream that is being read."""

    def __init__(self, response: aiohttp.ClientResponse, source: EventSource) -> None:
        self.response = response
        self.source = source

    async def next(self) -> Sent | None:
        """Return the next event, or None at the end of the stream."""
        while line := await self.response.content.readline():
            if sent := self.source.take(line.decode().removesuffix("\n")):
                return sent
        return None

    async def take(self, number: int) -> list[Sent]:
        """Return the next *number* events."""
        found = [await self.next() for _ in range(number)]
        assert None not in found, "the stream has ended"
        return [sent for sent in found if sent is not None]

    async def rest(self) -> list[Sent]:
        """Return all events until the stream ends."""
        found = []
        while sent := await self.next():
            found.append(sent)
        return found


@asynccontextmanager
async def streaming(
    client: Client, query: str = "", source: EventSource | None = None, **headers: str
) -> AsyncIterator[Stream]:
    """Open a stream; *source* may continue from an earlier one."""
    source = source or EventSource()
    fields = {"Authorization": f"Bearer {client.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if source.last_id:
        fields["Last-Event-ID"] = source.last_id
    async with client.session.get(f"{client.url}/v1/events/stream{query}", headers=fields) as response:
        assert response.status == 200, await response.text()
        yield Stream(response, source)


async def position_reached(client: Client, position: int) -> bool:
    """Return whether the client's ledger has given this position to an event."""
    return (await client.get(f"/v1/events?after={position}")).status == 200


async def pulled(client: Client, query: str = "", after: int = 0) -> list[Any]:
    """Return all events after a position, read page by page until the position stays the same."""
    found = []
    while True:
        answer = await client.get(f"/v1/events?after={after}{query}")
        assert answer.status == 200, answer
        found += answer.json["data"]
        if answer.json["next_after"] == after:
            return found
        after = answer.json["next_after"]
