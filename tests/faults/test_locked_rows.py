"""While rows are locked, requests about them wait, and other requests do not notice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from server.http.admission import RUNNING_WRITES_MAX
from tests.api.holding import follow, followed, paid, progress
from tests.api.holding import held as hold
from tests.support.books import check_books
from tests.support.client import Answer, Client, new_key
from tests.support.locks import held, somebody_waits_for
from tests.support.service import Service, in_process

# Ledgers that have locked accounts; with 50 locked accounts, they are shared out among these.
LEDGERS = 5
# Requests of each kind about locked accounts. Three kinds write, so that together they exceed a worker's places.
CROWD = RUNNING_WRITES_MAX // 3 + 4
# Answers to writes of locked accounts: at their deadline, or at once when too many wait already.
IN_VAIN = {("unavailable", "not_applied"), ("overloaded", "not_applied")}


def now() -> str:
    """Return the current instant, encoded for a query."""
    return quote(datetime.now(UTC).isoformat())


async def fund_all(client: Client, accounts: list[str]) -> None:
    """Open accounts and fund each of them."""
    opened = await client.post("/v1/accounts/bulk", {"accounts": [{"id": a, "currency": "EUR"} for a in accounts]})
    order = {"source": "world", "amount": 10_000, "currency": "EUR"}
    orders = [{"key": f"fund-{account}", "destination": account, **order} for account in accounts]
    posted = await client.post("/v1/transfers/bulk", {"transfers": orders})
    assert {result["status"] for answer in (opened, posted) for result in answer.json["results"]} == {201}


async def crowd(clients: list[Client], accounts: list[str]) -> list[Answer]:
    """Send every kind of request that needs the row of a locked account."""

    def about(number: int) -> tuple[Client, str]:
        return clients[number % len(clients)], accounts[number % len(accounts)]

    requests: list[Awaitable[Answer]] = []
    for number in range(CROWD):
        client, account = about(number)
        item = {"source": account, "destination": "free", "amount": 1, "currency": "EUR"}
        bulk = {"transfers": [{"key": f"bulk-{number}-{n}", **item} for n in range(2)], "atomic": number % 2 == 0}
        requests += [
            client.transfer(account, "free", 1),
            client.post("/v1/transfers/bulk", bulk),
            client.send("PATCH", f"/v1/accounts/{account}", {"metadata": {"a": "b"}}),
            client.get(f"/v1/accounts/{account}/balance?at={now()}"),
            client.get(f"/v1/accounts/{account}/entries?to={now()}"),
        ]
    return await asyncio.gather(*requests)


async def neighbour(client: Client, number: int) -> list[int]:
    """Send requests about other accounts, and return the statuses."""
    account = f"new-{number}"
    answers = [
        await client.open(account),
        await client.transfer("free", account, 1),
        await client.send("PATCH", f"/v1/accounts/{account}", {"metadata": {"a": "b"}}),
        await client.get(f"/v1/accounts/{account}"),
        await client.get(f"/v1/accounts/{account}/balance?at={now()}"),
    ]
    return [answer.status for answer in answers]


@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize("count", [1, 50])
async def test_locked_accounts_cost_their_neighbours_nothing(database_url: str, redis_url: str, count: int) -> None:
    """
    While many requests wait for 1 or 50 locked accounts, every request about other accounts is served, in the same
    ledgers and in others. The waiting requests are told that nothing was applied, and work once the lock is released.
    """
    accounts = [f"stuck-{number}" for number in range(count)]
    async with in_process(database_url, redis_url) as service:
        clients = [await service.client(f"ledger-{number}") for number in range(min(count, LEDGERS))]
        for client in clients:
            await client.fund("free", 1_000_000)
            await fund_all(client, accounts)
        beside = await service.client("neighbour")
        await beside.fund("free", 1_000_000)
        heard: list[int] = []
        async with held(database_url, *accounts):
            waiting = asyncio.create_task(crowd(clients, accounts))
            number = 0
            while not waiting.done():
                both = await asyncio.gather(neighbour(beside, number), neighbour(clients[0], number))
                heard += [status for statuses in both for status in statuses]
                number += 1
            answers = await waiting
        assert Counter(heard) == {201: 4 * number, 200: 6 * number}
        assert number >= 5
        assert {answer.status for answer in answers} == {503}
        writes = [answer.json for answer in answers if "outcome" in answer.json]
        assert {(problem["code"], problem["outcome"]) for problem in writes} <= IN_VAIN
        assert (await clients[0].transfer(accounts[0], "free", 1)).status == 201
        assert (await clients[0].send("PATCH", f"/v1/accounts/{accounts[0]}", {"floor": -1})).status == 200
        assert (await clients[0].get(f"/v1/accounts/{accounts[0]}/balance?at={now()}")).status == 200
    await check_books(database_url)


# The requests that write one key or webhook endpoint.
ADMINISTRATION: dict[str, tuple[str, list[tuple[str, str, object]]]] = {
    "api_keys": (
        "/v1/api-keys",
        [("PATCH", "", {"description": "a"}), ("POST", "/rotate", {}), ("DELETE", "", None)],
    ),
    "webhook_endpoints": (
        "/v1/webhook-endpoints",
        [
            ("PATCH", "", {"description": "a"}),
            ("POST", "/rotate-secret", {}),
            ("POST", "/replay", {"from_position": 1}),
            ("DELETE", "", None),
        ],
    ),
}


@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize("table", ADMINISTRATION)
async def test_a_locked_key_or_endpoint_costs_others_nothing(database_url: str, redis_url: str, table: str) -> None:
    """While administrators' requests wait for a locked row, other requests are served; then their requests are too."""
    path, writes = ADMINISTRATION[table]
    body = {"role": "read"} if table == "api_keys" else {"url": "http://127.0.0.1:1/"}
    async with in_process(database_url, redis_url) as service:
        client, beside = await service.client("ledger"), await service.client("neighbour")
        await beside.fund("free", 1_000)
        row = (await client.post(path, body)).json["id"]
        heard: list[int] = []
        async with held(database_url, row, table=table):
            crowd = [
                asyncio.create_task(client.send(method, f"{path}/{row}{action}", fields))
                for method, action, fields in writes
                for _ in range(RUNNING_WRITES_MAX // len(writes) + 4)
            ]
            number = 0
            while not all(task.done() for task in crowd):
                heard += await neighbour(beside, number)
                number += 1
            answers = [await task for task in crowd]
            last = asyncio.create_task(client.send("PATCH", f"{path}/{row}", {"description": "b"}))
            assert (await client.get(f"{path}/{row}")).status == 200
        assert Counter(heard) == {201: 2 * number, 200: 3 * number}
        assert number >= 5
        assert {(answer.status, answer.code, answer.json["outcome"]) for answer in answers} <= {
            (503, *answered) for answered in IN_VAIN
        }
        assert (await last).json["description"] == "b"
        assert [(await client.send(method, f"{path}/{row}{a}", fields)).status for method, a, fields in writes] == [
            200
        ] * len(writes)


async def test_a_known_key_of_a_locked_account_is_answered(service: Service, client: Client) -> None:
    """A retry needs no lock, because what its key is bound to never changes."""
    await client.fund("alice", 100)
    await client.open("bob")
    first = await client.transfer("alice", "bob", 1, key="known")
    bulk = {
        "atomic": True,
        "transfers": [
            {"key": f"set-{n}", "source": "alice", "destination": "bob", "amount": 1, "currency": "EUR"} for n in (1, 2)
        ],
    }
    assert (await client.post("/v1/transfers/bulk", bulk)).status == 200
    async with held(service.database_url, "alice"):
        # The answer comes from a look-up by the posting, as the set's does, and not from a replay in Redis.
        again = await client.post("/v1/transfers/bulk", bulk)
        assert [(r["status"], r["replayed"]) for r in again.json["results"]] == [(201, True)] * 2
        assert (await client.transfer("alice", "bob", 1, key="known")).body == first.body
        other = await client.transfer("alice", "bob", 2, key="known")
        assert other.status == 422


async def follow_locked(client: Client, kind: str, parents: dict[str, str]) -> list[Answer]:
    """Send requests of a kind that follow locked parents, alone and in bulks; *parents* are ids by their keys."""
    fields: dict[str, Any] = {} if kind == "void" else {"amount": 1}
    requests: list[Awaitable[Answer]] = []
    for number in range(CROWD // len(parents)):
        for key, parent in parents.items():
            named = {"parent": parent} if number % 2 else {"parent_key": key}
            items = [
                {"key": new_key(), "kind": kind, **named, **fields},
                {"key": new_key(), "source": "alice", "destination": "bob", "amount": 1, "currency": "EUR"},
            ]
            bulk = {"transfers": items, "atomic": number % 4 < 2}
            requests += [follow(client, kind, parent, **fields), client.post("/v1/transfers/bulk", bulk)]
    return await asyncio.gather(*requests)


@pytest.mark.usefixtures("short_deadlines")
async def test_locked_holds_cost_their_neighbours_nothing(database_url: str, redis_url: str) -> None:
    """
    While many captures, voids and reversals wait for locked rows of their parents, no session waits for the locks, and
    every other request is served, those about the same accounts included. The waiting requests are told that
    nothing was applied, and work once the lock is released.
    """
    async with in_process(database_url, redis_url) as service:
        client, beside = [await service.client(name) for name in ("holds", "neighbour")]
        for each in (client, beside):
            await each.fund("free", 1_000_000)
        await client.fund("alice", 1_000_000)
        await client.open("bob")
        locked = {f"locked-{number}": await hold(client, 1_000, f"locked-{number}") for number in range(2)}
        locked_paid = {"paid": await paid(client, 1_000, "paid")}
        await followed(client, "reversal", locked_paid["paid"], amount=1)
        free = await hold(client, 500_000)
        parents = (*locked.values(), *locked_paid.values())
        before = [await progress(client, parent) for parent in parents]
        heard: list[int] = []
        blocked = False
        async with held(database_url, *parents, table="transfer_progress") as pid:
            excess = await follow(client, "capture", locked["locked-0"], "again", amount=2_000)
            kinds = (("capture", locked), ("void", locked), ("reversal", locked_paid))
            waiting = asyncio.gather(*(follow_locked(client, kind, named) for kind, named in kinds))
            number = 0
            while not waiting.done():
                # The first reversal of a transfer makes its row.
                answers = await asyncio.gather(
                    follow(client, "reversal", await paid(client, 1)),
                    follow(client, "capture", free, amount=1, release_rest=False),
                )
                both = await asyncio.gather(neighbour(beside, number), neighbour(client, number))
                heard += [status for statuses in both for status in statuses] + [answer.status for answer in answers]
                blocked |= await somebody_waits_for(database_url, pid)
                number += 1
            refused = [answer for several in await waiting for answer in several]
        assert excess.status == 503
        assert Counter(heard) == {201: 6 * number, 200: 6 * number}
        assert number >= 5
        assert not blocked
        assert {answer.status for answer in refused} == {503}
        assert {(answer.json["code"], answer.json["outcome"]) for answer in refused} <= IN_VAIN
        assert [await progress(client, parent) for parent in parents] == before
        assert (await follow(client, "capture", locked["locked-0"], "again", amount=2_000)).status == 409
        assert (await follow(client, "capture", locked["locked-0"], amount=1)).status == 201
        assert (await follow(client, "void", locked["locked-1"])).status == 201
        assert (await follow(client, "reversal", locked_paid["paid"])).status == 201
    await check_books(database_url)


async def test_a_request_for_a_locked_hold_goes_on_when_it_is_free(service: Service, client: Client) -> None:
    """A capture that waits is posted once after the lock is released; one whose key is bound needs no lock."""
    await client.fund("alice", 100)
    await client.open("bob")
    parent = await hold(client, 10)
    first = await follow(client, "capture", parent, "first", amount=1, release_rest=False)
    async with held(service.database_url, parent, table="transfer_progress"):
        item = {"key": "first", "kind": "capture", "parent": parent, "amount": 1, "release_rest": False}
        again = await client.post("/v1/transfers/bulk", {"transfers": [item]})
        assert [(r["status"], r["transfer"]["id"]) for r in again.json["results"]] == [(201, first.json["id"])]
        part: dict[str, Any] = {"amount": 2, "release_rest": False}
        waiting = asyncio.create_task(follow(client, "capture", parent, "second", **part))
        chain = [
            {"key": "third", "kind": "capture", "parent": parent, **part},
            {"key": "fourth", "kind": "reversal", "parent_key": "third"},
        ]
        both = asyncio.create_task(client.post("/v1/transfers/bulk", {"transfers": chain}))
        assert (await client.transfer("alice", "bob", 1)).status == 201
        assert not waiting.done()
        assert not both.done()
    assert (await waiting).status == 201
    assert [result["status"] for result in (await both).json["results"]] == [201, 201]
    assert await progress(client, parent) == (("open", 5, 5), 0)


@pytest.mark.usefixtures("short_deadlines")
async def test_an_opening_waits_for_another_transaction_apart(database_url: str, redis_url: str) -> None:
    """
    While another transaction holds new accounts uncommitted, requests that open them get 503, and other requests are
    served.
    """
    ids = [f"opening-{number}" for number in range(20)]
    async with in_process(database_url, redis_url) as service:
        client = await service.client("books")
        await client.open("free")
        connection = await asyncpg.connect(database_url)
        try:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO tallystick.accounts (ledger_id, id, currency, created_at) "
                    "SELECT ledger_id, i, 'EUR', now() FROM unnest($1::text[]) AS i, tallystick.accounts",
                    ids,
                )
                waiting = asyncio.gather(*(client.open(account) for account in ids))
                number = 0
                while not waiting.done():
                    assert (await client.open(f"other-{number}")).status == 201
                    number += 1
                assert {answer.status for answer in await waiting} == {503}
        finally:
            await connection.close()
        assert {(await client.open(account)).status for account in ids} == {200}
