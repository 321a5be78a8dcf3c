"""The feed has every event of a ledger once, with the data that a read showed at that time."""

import asyncio
import random
from collections import defaultdict
from typing import Any

import orjson

from server.background.hold_sweeper import Sweeper
from server.books import create_books
from server.events.feed import envelope
from server.events.relay import Relay
from server.settings import Settings
from tests.events.conftest import Told
from tests.support.client import Client, new_key
from tests.support.clock import moved_clock
from tests.support.postgres import administer
from tests.support.service import NO_REDIS, Service, in_process
from tests.support.waiting import until


async def test_each_type(client: Client, told: Told, ledger: str) -> None:
    """Each event has its type, its subject, and exactly the data that a read showed right after it."""
    shown: list[tuple[str, str, Any]] = []

    async def note(name: str, path: str) -> None:
        body = (await client.get(path)).json
        shown.append((f"tallystick.{name}.v1", body["id"], body))

    async def transfer(name: str, path: str, **body: object) -> str:
        key = new_key()
        await client.send("POST", f"/v1/transfers{path}", body, headers={"Idempotency-Key": key})
        await note(name, f"/v1/idempotency-keys/{key}")
        return str(shown[-1][1])

    sides = {"source": "world", "destination": "shop", "currency": "EUR"}
    await client.open("world", floor=None, metadata={"b": "<script>", "a": "ü"})
    await note("account.created", "/v1/accounts/world")
    await client.open("shop", ceiling=1_000)
    await note("account.created", "/v1/accounts/shop")
    await client.open("shop", ceiling=1_000)
    await transfer("transfer.posted", "", **sides, amount=10, metadata={"x": "y"}, reference="r")
    parent = await transfer("hold.created", "", **sides, amount=10, hold=True)
    captured = await transfer("hold.captured", f"/{parent}/capture", amount=4, release_rest=False)
    await transfer("hold.voided", f"/{parent}/void")
    await transfer("transfer.reversed", f"/{captured}/reverse")
    await transfer("transfer.refused", "", **sides, amount=2_000)
    await transfer("transfer.refused", f"/{parent}/capture")
    await client.send("PATCH", "/v1/accounts/shop", {"metadata": {"color": "red"}})
    await note("account.updated", "/v1/accounts/shop")
    await client.send("PATCH", "/v1/accounts/shop", {"closed": True, "metadata": None})
    await note("account.closed", "/v1/accounts/shop")
    await client.send("PATCH", "/v1/accounts/shop", {"closed": True})
    await note("account.updated", "/v1/accounts/shop")

    events = await told.events(ledger)
    told_as = [orjson.loads(envelope(event, ledger)) for event in events]
    for number, (event, (name, subject, body)) in enumerate(zip(told_as, shown, strict=True), 1):
        assert (event["type"], event["subject"], event["data"]) == (name, subject, body)
        assert (event["id"], event["position"]) == (f"{ledger}/{number}", number)
        assert (event["specversion"], event["source"]) == ("1.0", f"/ledgers/{ledger}")
        assert event["time"] == body["created_at"] or name.startswith("tallystick.account")


async def test_expiries_are_told(client: Client, told: Told, ledger: str) -> None:
    """An expired hold becomes an event that names the hold as its parent."""
    await client.open("world", floor=None)
    await client.open("shop")
    hold = (await client.transfer("world", "shop", 1, hold=True, expires_in=1)).json["id"]
    sweeper = Sweeper(told.books.database, told.books.posting)

    async def told_of() -> bool:
        await sweeper.step()
        last = (await told.events(ledger))[-1]
        return last.type == "hold.expired" and orjson.loads(last.data)["parent"] == hold

    await until(told_of)
    await sweeper.close()


async def test_bulks(client: Client, told: Told, ledger: str) -> None:
    """A bulk's items become events in order, a failed set's items as refused, and replays become no events."""
    await client.open("world", floor=None)
    await client.open("shop")
    item = {"source": "world", "destination": "shop", "amount": 1, "currency": "EUR"}
    items = [{"key": new_key(), **item, "reference": str(n)} for n in range(20)]
    for _ in range(2):
        await client.post("/v1/transfers/bulk", {"transfers": items})
    back = {"source": "shop", "destination": "world", "amount": 100, "currency": "EUR"}
    broken = [{"key": new_key(), **item}, {"key": new_key(), **back}]
    await client.post("/v1/transfers/bulk", {"atomic": True, "transfers": broken})
    events = (await told.events(ledger))[2:]
    assert [orjson.loads(event.data)["reference"] for event in events[:20]] == [item["reference"] for item in items]
    assert [(event.type, orjson.loads(event.data)["problem"]["code"]) for event in events[20:]] == [
        ("transfer.refused", "linked_failed"),
        ("transfer.refused", "insufficient_funds"),
    ]


async def test_many_writers(service: Service, client: Client, told: Told, ledger: str) -> None:
    """With many writers and two relays, positions have no gaps or repeats, and each account's versions are in order."""
    random.seed(7)
    accounts = ["world", *(f"account:{n}" for n in range(6))]
    for account in accounts:
        await client.open(account, floor=None if account == "world" else 0)

    async def write() -> None:
        for _ in range(15):
            source, destination = random.sample(accounts, 2)
            match random.randrange(4):
                case 0:
                    await client.send("PATCH", f"/v1/accounts/{source}", {"metadata": {"n": new_key()}})
                case 1:
                    hold = (await client.transfer(source, destination, 3, hold=True)).json.get("id", "none")
                    path = f"/v1/transfers/{hold}/capture"
                    await client.send("POST", path, {"amount": 1}, headers={"Idempotency-Key": new_key()})
                case _:
                    item = {"source": source, "destination": destination, "amount": 2, "currency": "EUR"}
                    items = [{"key": new_key(), **item} for _ in range(random.randrange(1, 9))]
                    await client.post("/v1/transfers/bulk", {"transfers": items})

    other = Relay(service.database_url)
    writing = asyncio.gather(*(write() for _ in range(8)))
    while not writing.done():
        await asyncio.gather(told.relay.step(), other.step())
    await writing
    await other.close()
    # On a new connection it looks at everything, so at what it has left to the other one too.
    await told.relay.close()
    events = await told.events(ledger)
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    rows = await administer(
        service.database_url,
        "SELECT t.id::text, t.refusal FROM tallystick.transfers AS t JOIN tallystick.ledgers AS l ON l.id = t.ledger_id"
        " WHERE l.name = $1",
        ledger,
    )
    of_transfers = [(event.subject, event.type == "transfer.refused") for event in events if len(event.accounts) == 2]
    assert sorted(of_transfers) == sorted((row["id"], row["refusal"] is not None) for row in rows)
    versions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        data = orjson.loads(event.data)
        if event.type.startswith("account."):
            versions[event.subject].append(data["version"])
        elif event.type != "transfer.refused":
            versions[data["source"]].append(data["source_version"])
            versions[data["destination"]].append(data["destination_version"])
    assert versions == {account: list(range(1, len(found) + 1)) for account, found in versions.items()}


async def test_a_clock_steps_back(database_url: str) -> None:
    """An account's versions never fall, even if the clock steps back and due holds are no longer due."""
    async with in_process(database_url) as service, moved_clock(database_url, None) as clock:
        client = await service.client("books")
        await client.open("world", floor=None)
        await client.open("shop")
        for _ in range(2):
            await client.transfer("world", "shop", 5, hold=True, expires_in=5)
        await clock.advance(10)
        await client.transfer("world", "shop", 1)
        await clock.run_true()
        await client.send("PATCH", "/v1/accounts/shop", {"metadata": {"x": "y"}})
        await client.transfer("world", "shop", 1)
    async with create_books(Settings(database_url=database_url, redis_url=NO_REDIS)) as books:
        told = Told(books, Relay(database_url))
        events = await told.events("books")
        await told.relay.close()
    versions = [
        data["version"] if event.type.startswith("account.") else data["destination_version"]
        for event in events
        if "shop" in event.accounts
        for data in [orjson.loads(event.data)]
    ]
    assert versions == sorted(versions)
    assert len(versions) == 6
