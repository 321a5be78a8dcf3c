"""
The server is killed with SIGKILL at its failpoints while holds are captured; after a restart, a retry tells the
outcome.
"""

import asyncio
import signal
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from server.settings import POSTING_FAILPOINTS
from tests.api.holding import figures, follow, followed, held, paid, progress
from tests.api.steps import bound
from tests.support.books import check_books
from tests.support.client import Answer, Client
from tests.support.service import ServerProcess, in_process, make_key
from tests.support.waiting import WAIT_SECONDS, until

LEDGER = "killed"
CLIENTS = 12


class Asked(NamedTuple):
    """A request that is sent until it has an answer."""

    key: str
    kind: str
    parent: str
    fields: dict[str, object]

    async def send(self, client: Client) -> Answer | None:
        """Send the request; return None if there is no answer."""
        try:
            return await follow(client, self.kind, self.parent, self.key, **self.fields)
        except (aiohttp.ClientError, OSError):
            return None


async def _prepare(client: Client) -> list[Asked]:
    """Make holds and transfers, and return requests about them, with more captures than the holds have money for."""
    await client.fund("alice", 1_000)
    await client.open("bob")
    asked = []
    for number in range(CLIENTS):
        hold, transfer = await held(client, 10), await paid(client, 10)
        capture = Asked("", "capture", hold, {"amount": 4, "release_rest": False})
        asked += [capture._replace(key=f"c-{number}-{part}") for part in range(3)]
        asked += [Asked(f"r-{number}", "reversal", transfer, {"amount": 3}), Asked(f"v-{number}", "void", hold, {})]
    return asked


@pytest.mark.parametrize("name", POSTING_FAILPOINTS)
async def test_killed_while_holds_are_captured(database_url: str, tmp_path: Path, name: str) -> None:
    """Each capture, void and reversal is posted once or not at all, and the rest of each hold agrees."""
    server = ServerProcess(database_url, tmp_path / "server.log")
    token = await make_key(database_url, LEDGER)
    async with in_process(database_url) as before:
        asked = await _prepare(Client(before.session, before.url, token))
    try:
        await server.start({"TALLYSTICK_FAILPOINTS": f"{name}=kill@2"})
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.timeout(WAIT_SECONDS),
        ):
            client = Client(session, server.url, token)
            # Each client sends one request after the other, so that there are several batches.
            first: dict[str, Answer | None] = {}

            async def work(mine: list[Asked]) -> None:
                for request in mine:
                    first[request.key] = await request.send(client)

            await asyncio.gather(*(work(asked[number::CLIENTS]) for number in range(CLIENTS)))
            await until(lambda: "died: signal 9" in server.log_text())
            server.kill()
            assert await server.wait() == -signal.SIGKILL
    finally:
        await server.stop()
    await check_books(database_url)
    async with in_process(database_url) as after:
        client = Client(after.session, after.url, token)
        assert None in first.values()
        for request in asked:
            answer, again = first[request.key], await request.send(client)
            assert again is not None
            assert again.status in (201, 409), again
            if answer is not None and answer.status != 503:
                assert (again.status, again.body, again.replayed) == (answer.status, answer.body, True)
            assert (await bound(client, request.key)).status == 200
        for hold in {request.parent for request in asked if request.kind == "void"}:
            (state, captured, remaining), _ = await progress(client, hold)
            assert (state, captured, remaining) in (("voided", 0, 0), ("voided", 4, 0), ("voided", 8, 0))
        balance, held_in, held_out, _ = await figures(client, "alice")
        assert (held_in, held_out) == (0, 0)
        assert balance + await client.balance("bob") == 1_000
        await followed(client, "capture", await held(client, 10))
    await check_books(database_url)
