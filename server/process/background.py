"""
The background process: one such process of each database is the leader and runs the background jobs.

Run beside workers as `python -m server.process.background CHANNEL SUPERVISOR`. CHANNEL is an inherited descriptor, and
SUPERVISOR is the id of the parent process. `tallystick background` runs the same parts without a supervisor.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from server.background.auditor import Auditor
from server.background.hold_sweeper import Sweeper
from server.background.leader import Leader
from server.books import create_books
from server.checked_settings import postgres_address
from server.events.relay import Relay
from server.events.sinks.publisher import SinkPublisher
from server.events.webhooks.configuration import make_vault, read_destinations
from server.events.webhooks.deliveries import Deliveries
from server.events.webhooks.pruning import WebhookPruning
from server.events.webhooks.sender import Sender
from server.process import attached
from server.process.channel import Ask, Channel, Orders, Retire, Serving, Stop, ToChild
from server.process.error_messages import NotReadyError
from server.process.postgres_connections import BACKGROUND_POSTING, BACKGROUND_READING
from server.process.reporting import repeat
from server.settings import Settings
from server.store.background import stop
from server.store.readiness import Readiness

# Named explicitly: this module runs as a program, so its __name__ is "__main__".
log = logging.getLogger("server.process.background")


class Background(NamedTuple):
    """The parts of the process."""

    leader: Leader
    readiness: Readiness


@asynccontextmanager
async def create_background(settings: Settings) -> AsyncIterator[Background]:
    """
    Make the parts, stand for election, and close the parts in reverse: the jobs end, then another process may lead.

    Args:
        settings: As for `create_books`; its pool sizes are replaced by those of a background process.

    Raises:
        SettingsError: As `create_books`.
    """
    pools = {"posting_connections": BACKGROUND_POSTING, "reading_connections": BACKGROUND_READING}
    sender = Sender(read_destinations(settings))
    async with create_books(msgspec.structs.replace(settings, **pools)) as books:
        address = postgres_address(settings)
        deliveries = Deliveries(books.database, books.feed, make_vault(settings), sender, books.failpoints)
        publisher = SinkPublisher(books.database, books.feed, books.failpoints)
        jobs = (
            Sweeper(books.database, books.posting),
            Relay(address, [deliveries.notice, publisher.tell], books.failpoints),
            deliveries,
            publisher,
            WebhookPruning(books.database),
            Auditor(address, books.database),
        )
        leader = Leader(address, jobs)
        standing = asyncio.create_task(leader.run())
        try:
            yield Background(leader, Readiness(books.database))
        finally:
            await stop(standing)


def main() -> int:
    """Work with the settings that the supervisor sends, and return the exit code."""
    channel, supervisor = map(int, sys.argv[1:])
    return attached.run(channel, supervisor, work, process="background")


async def work(orders: Orders, settings: Settings, channel: Channel[ToChild]) -> None:
    """
    Work until the supervisor ends it.

    Raises:
        NotReadyError: This process had to be ready and is not.
        SettingsError: As `create_background`.
    """
    ending = asyncio.Event()
    readiness: Readiness | None = None
    answers: set[asyncio.Task[None]] = set()

    def handle(message: ToChild) -> None:
        match message:
            case Ask():
                task = asyncio.create_task(attached.answer(channel, readiness))
                answers.add(task)
                task.add_done_callback(answers.discard)
            case Stop() | Retire():
                ending.set()
            case Orders():
                log.error("orders came twice")

    channel.listen(handle, attached.leave)
    tasks = [asyncio.create_task(attached.beat(channel))]
    try:
        async with create_background(settings) as background:
            readiness = background.readiness
            failures = await readiness.failures()
            if orders.must_be_ready and failures:
                raise NotReadyError("; ".join(failures))
            for failure in failures:
                log.error("not ready: %s", failure)
            channel.send(Serving(failures))
            tasks.append(asyncio.create_task(repeat(background.leader.samples, channel)))
            await ending.wait()
            log.info("stopping")
    finally:
        await stop(*tasks)


if __name__ == "__main__":
    sys.exit(main())
