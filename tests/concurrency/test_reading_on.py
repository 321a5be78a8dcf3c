"""A client that follows new transfers as docs/reference/requests.md says misses none that is posted in between."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from asyncpg.pgproto.pgproto import UUID

from server.ledger.ids import new_transfer_id
from server.ledger.post_transfers import columns
from server.ledger.transfers import TransferRequest
from server.ledger.unit import Unit
from server.store.sessions import COMMAND_TIMEOUT_SECONDS, STATEMENT_TIMEOUT_MS
from server.store.sql import query
from tests.support.client import Client
from tests.support.service import ServerProcess, Service, make_key

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "requests.md"
LEDGER = "read-on"
WRITERS = 16
# Passes that must rely on reading back before the writers stop.
PASSES = 10
ACCOUNTS = [f"account-{number}" for number in range(40)]
# The longest time until a posting is visible. The page's margin also covers clocks, but this test has only one.
READ_BACK = timedelta(seconds=COMMAND_TIMEOUT_SECONDS)


class Follower:
    """
    Reads a ledger's transfers repeatedly, newest first.

    Args:
        client: A client of the ledger.

        read_back: How far each pass reads back beyond the newest transfer of the pass before.
    """

    def __init__(self, client: Client, read_back: timedelta) -> None:
        self._client = client
        self._read_back = read_back
        self._newest: datetime | None = None
        self.seen: set[str] = set()
        # Passes that stopped before the end.
        self.short = 0

    async def look(self) -> list[Any]:
        """Read one pass and return its rows."""
        rows: list[Any] = []
        cursor = ""
        while True:
            answer = await self._client.get(f"/v1/transfers?limit=100{cursor}")
            assert answer.status == 200, answer
            rows += answer.json["data"]
            if answer.json["next_cursor"] is None:
                break
            if self._newest is not None and _at(rows[-1]) < self._newest - self._read_back:
                self.short += 1
                break
            cursor = f"&cursor={answer.json['next_cursor']}"
        self.seen |= {row["id"] for row in rows}
        self._newest = _at(rows[0])
        return rows


def _at(row: Any) -> datetime:
    return datetime.fromisoformat(row["created_at"])


def test_the_page_reads_back_far_enough() -> None:
    """
    The margin on the page allows for clocks as much as a posting may take, and its other two figures are those in
    force.
    """
    text = PAGE.read_text()
    (seconds,) = re.findall(r"more than \*\*(\d+) s\*\* before", text)
    assert int(seconds) >= 2 * COMMAND_TIMEOUT_SECONDS
    assert f"after {STATEMENT_TIMEOUT_MS / 1000:g} s (`statement_timeout`)" in text
    assert f"gives up the commit {COMMAND_TIMEOUT_SECONDS:g} s after it began" in text


@asynccontextmanager
async def posting(service: Service, ledger: str, transfer: UUID) -> AsyncIterator[None]:
    """
    Post from alice to bob as the service does, with this id: its instant is fixed in the block, and it commits
    afterwards.
    """
    request = TransferRequest(
        *(f"key-{transfer}", b"f" * 32, transfer, "alice", "bob", 1, "EUR", "r", None, "{}", None, "request"),
        *(None, None, None),
    )
    connection = await asyncpg.connect(service.database_url, server_settings={"search_path": "tallystick"})
    try:
        ledger_id = await connection.fetchval("SELECT id FROM ledgers WHERE name = $1", ledger)
        unit = Unit(ledger_id, (request,), 0.0, 0.0)
        async with connection.transaction():
            await connection.fetchrow(query("transfer_post_many"), *columns([unit]).arguments, [True], 250, True)
            yield
    finally:
        await connection.close()


@pytest.fixture
async def books(client: Client) -> Client:
    """A client in whose ledger alice and carol have 1,000, and bob and dave nothing."""
    for account in ("alice", "carol"):
        await client.fund(account, 1_000)
    for account in ("bob", "dave"):
        await client.open(account)
    return client


async def test_the_order_is_that_of_posting(service: Service, books: Client, ledger: str) -> None:
    """A transfer that was received first and posted last is the newest in every list."""
    received = new_transfer_id()
    newer = (await books.transfer("alice", "bob", 1, reference="r")).json["id"]
    async with posting(service, ledger, received):
        pass
    for chosen in ("", "account=alice", "reference=r", "account=bob&reference=r"):
        rows = (await books.get(f"/v1/transfers?limit=2&{chosen}".rstrip("&"))).json
        assert [row["id"] for row in rows["data"]] == [str(received), newer], chosen
        first = (await books.get(f"/v1/transfers?limit=1&{chosen}".rstrip("&"))).json
        second = (
            await books.get(f"/v1/transfers?limit=1&{chosen}&cursor={first['next_cursor']}".replace("&&", "&"))
        ).json
        assert second["data"] == rows["data"][1:], chosen


async def test_a_posting_that_commits_late_is_read(service: Service, books: Client, ledger: str) -> None:
    """A transfer that appears behind newer ones is found by reading back, where a stop at known rows would miss it."""
    follower = Follower(books, READ_BACK)
    await follower.look()
    late = new_transfer_id()
    async with posting(service, ledger, late):
        newer = (await books.transfer("carol", "dave", 1)).json["id"]
        assert (await follower.look())[0]["id"] == newer
    rows = await follower.look()
    assert [row["id"] for row in rows[:2]] == [newer, str(late)]


@pytest.mark.timeout(120)
async def test_no_transfer_is_missed(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """While sixteen writers use two servers, a reader that follows the page sees every transfer, in one order."""
    servers = [ServerProcess(database_url, tmp_path / f"{number}.log", redis_url=redis_url) for number in range(2)]
    token = await make_key(database_url, LEDGER)
    dice = random.Random(7)
    posted: set[str] = set()
    try:
        await asyncio.gather(*(server.start() for server in servers))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = [Client(session, server.url, token) for server in servers]
            follower = Follower(clients[1], READ_BACK)

            async def write(client: Client) -> None:
                while follower.short < PASSES:
                    source, destination = dice.sample(ACCOUNTS, 2)
                    answer = await client.transfer(source, destination, 1)
                    assert answer.status == 201, answer
                    posted.add(answer.json["id"])

            opened = [{"id": account, "currency": "EUR", "floor": None} for account in ACCOUNTS]
            assert (await clients[0].post("/v1/accounts/bulk", {"accounts": opened})).status == 200
            posted.add((await clients[0].transfer(ACCOUNTS[0], ACCOUNTS[1], 1)).json["id"])
            writers = asyncio.gather(*(write(clients[number % 2]) for number in range(WRITERS)))
            while not writers.done():
                await follower.look()
            await writers
            rows = await follower.look()
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
    assert posted - follower.seen == set()
    assert len(posted) > WRITERS * PASSES
    assert all((a["created_at"], a["id"]) > (b["created_at"], b["id"]) for a, b in pairwise(rows))
