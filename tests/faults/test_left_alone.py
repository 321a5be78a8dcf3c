"""If the caller leaves or the server has an error, the transfer still has a definite outcome, and its key tells it."""

import asyncio
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson
import pytest

from server.settings import POSTING_FAILPOINTS
from tests.support.books import check_books
from tests.support.client import Client
from tests.support.history import History
from tests.support.locks import held, somebody_waits
from tests.support.postgres import administer
from tests.support.service import Service, in_process
from tests.support.waiting import WAIT_SECONDS, until

LEDGER = "left"
FIELDS = {"source": "alice", "destination": "bob", "amount": 1, "currency": "EUR"}


class Raw(NamedTuple):
    """A raw connection that sends the given bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def connect(client: Client) -> Raw:
    """Open a connection to the server of *client*."""
    address = urlsplit(client.url)
    return Raw(*await asyncio.open_connection(address.hostname, address.port))


def request(client: Client, key: str) -> bytes:
    """Return a complete transfer request."""
    body = orjson.dumps(FIELDS)
    head = (
        f"POST /v1/transfers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\n"
        f"Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def prepare(service: Service) -> Client:
    """Return a client of a ledger in which `alice` has money."""
    client = await service.client(LEDGER)
    await client.fund("alice", 1_000)
    await client.open("bob")
    return client


@pytest.mark.parametrize("rude", [True, False], ids=["reset", "closed"])
async def test_a_caller_leaves_after_sending(database_url: str, rude: bool) -> None:
    """A transfer is posted even if its caller leaves after sending it; a retry gets the answer."""
    async with in_process(database_url) as service:
        client = await prepare(service)
        history = History(database_url, LEDGER)
        async with held(database_url, "alice"):
            callers = [await connect(client) for _ in range(10)]
            for number, caller in enumerate(callers):
                caller.writer.write(request(client, f"left-{number}"))
                await caller.writer.drain()
            await until(partial(somebody_waits, database_url))
            for caller in callers:
                if rude:
                    caller.writer.transport.abort()
                else:
                    caller.writer.close()
            await asyncio.sleep(0.05)
            assert not await administer(database_url, "SELECT FROM tallystick.transfers WHERE source = 'alice'")

        async def all_bound() -> bool:
            return {(await client.get(f"/v1/idempotency-keys/left-{n}")).status for n in range(10)} == {200}

        await until(all_bound)
        answers = [await history.transfer(client, f"left-{n}", "alice", "bob", 1) for n in range(10)]
        assert all(answer is not None and answer.status == 201 and answer.replayed for answer in answers)
        assert await client.balance("bob") == 10
        await history.check()


async def test_a_caller_leaves_in_the_middle_of_the_body(database_url: str) -> None:
    """A request that did not arrive completely has no effect, and its key is free."""
    async with in_process(database_url) as service:
        client = await prepare(service)
        for cut in (-1, -10):
            caller = await connect(client)
            caller.writer.write(request(client, "half")[:cut])
            await caller.writer.drain()
            caller.writer.close()
            await caller.writer.wait_closed()
        assert (await client.get("/v1/idempotency-keys/half")).status == 404
        answer = await client.transfer("alice", "bob", 1, "half")
        assert (answer.status, answer.replayed) == (201, False)
        await check_books(database_url)


@pytest.mark.parametrize("name", POSTING_FAILPOINTS)
async def test_the_server_fails_by_itself(database_url: str, name: str) -> None:
    """
    An unexpected error is a 500 with `unknown` that does not show its cause, and a retry with the key tells the
    outcome.
    """
    async with in_process(database_url, failpoints=f"{name}=raise@3") as service:
        # The failpoint lets the funding and one transfer pass.
        client = await prepare(service)
        assert (await client.transfer("alice", "bob", 1, "before")).status == 201
        failed = await client.transfer("alice", "bob", 1, "failed")
        assert (failed.status, failed.code) == (500, "internal_error")
        assert (failed.json["outcome"], failed.json["retry"]) == ("unknown", "same_key")
        assert name.encode() not in failed.body
        assert b"Failpoint" not in failed.body
        again = await client.transfer("alice", "bob", 1, "failed")
        assert again.status == 201
        if name != "posting.sent":
            assert again.replayed == (name == "posting.committed")
        assert await client.balance("bob") == 2
        assert (await client.transfer("alice", "bob", 1, "after")).status == 201
        await check_books(database_url)


@pytest.mark.parametrize("name", POSTING_FAILPOINTS)
async def test_the_server_fails_with_a_batch(database_url: str, name: str) -> None:
    """A batch that fails is split and sent again, so that its callers get normal answers."""
    async with in_process(database_url, failpoints=f"{name}=raise@2") as service:
        client = await prepare(service)
        history = History(database_url, LEDGER)
        async with asyncio.timeout(WAIT_SECONDS):
            answers = await asyncio.gather(
                *(history.transfer(client, f"batch-{n}", "alice", "bob", 1) for n in range(40))
            )
        heard = [answer.status for answer in answers if answer is not None]
        # If the failing batch had one request, that request gets the 500.
        assert set(heard) <= {201, 500}
        assert heard.count(500) <= 1
        await history.settle(client)
        assert await client.balance("bob") == 40
        await history.check()
