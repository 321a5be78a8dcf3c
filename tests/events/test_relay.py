"""The relay gives committed rows their positions, whatever else is running and however the relay fails."""

import asyncpg
import pytest

from server.events import relay as relays
from server.events.relay import Relay
from server.store.errors import StoreError
from server.telemetry.failpoints import FailpointError, Failpoints
from tests.events.conftest import Told
from tests.support.client import Client
from tests.support.postgres import administer
from tests.support.service import Service
from tests.support.waiting import until

# Changes an account as the service does, in a transaction that the test keeps open.
_CHANGE = """
    SELECT FROM change_account($1, $2, NULL, false, NULL, false, NULL, NULL, '{"a": "b"}', false, 50, '1000')
"""
_FEED = """
    SELECT f.position, coalesce(f.account, 'transfers') AS what FROM tallystick.feed AS f
    JOIN tallystick.ledgers AS l ON l.id = f.ledger_id WHERE l.name = $1 ORDER BY f.position
"""


async def feed(service: Service, ledger: str) -> list[str]:
    """Return the accounts or transfers in the rows of a feed, in order."""
    rows = await administer(service.database_url, _FEED, ledger)
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["what"] for row in rows]


async def test_what_commits_late_comes_later(service: Service, client: Client, told: Told, ledger: str) -> None:
    """An open transaction delays no other, and its rows get the next position when it commits."""
    for account in ("a", "b", "c"):
        await client.open(account)
    ledger_id = await told.ledger_id(ledger)
    connection = await asyncpg.connect(service.database_url, server_settings={"search_path": "tallystick"})
    try:
        async with connection.transaction():
            await connection.execute(_CHANGE, ledger_id, "a")
            for account in ("b", "c"):
                await client.send("PATCH", f"/v1/accounts/{account}", {"metadata": {"x": "y"}})
                await told.relay_all()
            assert await feed(service, ledger) == ["a", "b", "c", "b", "c"]
    finally:
        await connection.close()
    await told.relay_all()
    assert await feed(service, ledger) == ["a", "b", "c", "b", "c", "a"]


async def test_transaction_ids_begin_anew(service: Service, client: Client, told: Told, ledger: str) -> None:
    """Rows with old transaction ids, as in a restored copy, are missed at first and found by the next full look."""
    await client.open("a")
    await told.relay_all()
    await client.open("b")
    await administer(service.database_url, "UPDATE tallystick.outbox SET transaction_id = '3'")
    await told.relay_all()
    assert await feed(service, ledger) == ["a"]
    await told.relay.close()
    await told.relay_all()
    assert await feed(service, ledger) == ["a", "b"]


async def test_ids_of_the_future(service: Service, client: Client, told: Told, ledger: str) -> None:
    """Rows of a restored copy are relayed once, even if their transaction ids are ahead of the server's."""
    await client.open("a")
    await administer(service.database_url, "UPDATE tallystick.outbox SET transaction_id = '99999999999'")
    await client.open("b")
    await told.relay_all()
    await client.open("c")
    await told.relay_all()
    assert sorted(await feed(service, ledger)) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["relay.before", "relay.committed"])
async def test_it_fails(service: Service, client: Client, told: Told, ledger: str, name: str) -> None:
    """If a step fails before it relays or right after, nothing is lost and nothing is relayed twice."""
    await client.open("a")
    relay = Relay(service.database_url, failpoints=Failpoints(f"{name}=raise"))
    with pytest.raises(FailpointError):
        await relay.step()
    await client.open("b")
    await relay.step()
    await relay.close()
    assert await feed(service, ledger) == ["a", "b"]


async def test_a_step_is_bounded(service: Service, client: Client, told: Told, ledger: str) -> None:
    """A long outbox is relayed in parts, oldest first."""
    await client.post("/v1/accounts/bulk", {"accounts": [{"id": f"a:{n:04d}", "currency": "EUR"} for n in range(1000)]})
    parts = 0
    since: str = "0"
    running: list[str] = []
    while True:
        (row,) = await told.books.database.write("outbox_relay", since, running, 300, 250, [])
        parts += 1
        assert row["events_relayed"] <= 250
        since, running = row["since"], row["running"]
        if row["whole"]:
            break
        assert since == "0"
    assert parts >= 4
    assert await feed(service, ledger) == [f"a:{n:04d}" for n in range(1000)]


async def test_listeners(service: Service, client: Client, told: Told, ledger: str) -> None:
    """Listeners are told which ledgers have new positions, and nothing if there are none."""
    heard: list[int] = []
    relay = Relay(service.database_url, [heard.extend])
    await client.open("a")
    await relay.step()
    await relay.step()
    await relay.close()
    assert heard.count(await told.ledger_id(ledger)) == 1


async def test_its_connection_is_lost(service: Service, client: Client, told: Told, ledger: str) -> None:
    """On a new connection the relay looks at everything, because a crashed server may reuse transaction ids."""
    await client.open("a")
    await told.relay_all()
    await client.open("b")
    await administer(service.database_url, "UPDATE tallystick.outbox SET transaction_id = '3'")
    await administer(
        service.database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tallystick-relay'"
        " AND datname = current_database()",
    )
    with pytest.raises(StoreError):
        await told.relay.step()
    await told.relay_all()
    assert await feed(service, ledger) == ["a", "b"]


LOCKED = {
    "the head": "SELECT FROM tallystick.feed_heads WHERE ledger_id = $1 FOR UPDATE",
    "the oldest row": "SELECT FROM tallystick.outbox WHERE ledger_id = $1 ORDER BY posted_at LIMIT 1 FOR UPDATE",
    "the newest row": "SELECT FROM tallystick.outbox WHERE ledger_id = $1 ORDER BY posted_at DESC LIMIT 1 FOR UPDATE",
    "the ledger": "SELECT FROM tallystick.ledgers WHERE id = $1 FOR UPDATE",
}


@pytest.mark.parametrize("what", LOCKED)
@pytest.mark.parametrize("running", [True, False], ids=["a running relay", "a new relay"])
async def test_a_row_is_locked(
    service: Service, client: Client, told: Told, ledger: str, what: str, *, running: bool
) -> None:
    """While a row of a ledger is locked from outside, others are relayed; then that ledger catches up, in order."""
    beside = await service.client(f"{ledger}-beside")
    accounts = ["a", "b", "c"]
    ledger_id = await told.ledger_id(ledger)
    if running:
        await told.relay_all()
    if what == "the head":
        accounts = ["first", *accounts]
        await client.open("first")
        await told.relay_all()
    connection = await asyncpg.connect(service.database_url)
    try:
        await client.open("a")
        await client.open("b")
        # Its share of a call is used up by the ledger that is locked.
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(relays, "ROWS_MAX", 2)
            async with connection.transaction():
                await connection.execute(LOCKED[what], ledger_id)
                for number in range(3):
                    await beside.open(f"beside-{number}")
                    await told.relay_all()
                    assert len(await feed(service, f"{ledger}-beside")) == number + 1
                if what != "the ledger":
                    await client.open("c")
                    await told.relay_all()
                assert told.relay.lag_seconds > 0
                assert len(await feed(service, ledger)) == len(accounts) - 3
            if what == "the ledger":
                await client.open("c")

            async def caught_up() -> bool:
                await told.relay_all()
                return await feed(service, ledger) == accounts

            await until(caught_up)
        assert told.relay._locked == []
    finally:
        await connection.close()


async def test_an_id_without_a_row(service: Service, client: Client, told: Told, ledger: str) -> None:
    """An outbox row with a missing transfer blocks nothing else; the audit reports it."""
    await client.open("a")
    await administer(
        service.database_url,
        "INSERT INTO tallystick.outbox (ledger_id, posted_at, transfers)"
        " SELECT id, now(), ARRAY[gen_random_uuid()] FROM tallystick.ledgers WHERE name = $1",
        ledger,
    )
    await client.open("b")
    await told.relay_all()
    assert await feed(service, ledger) == ["a", "transfers", "b"]


async def test_it_says_that_it_is_behind(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """While steps fail, the reported lag grows."""
    monkeypatch.setattr(relays, "SILENT_SECONDS", 0.0)
    await told.relay_all()
    before = told.relay.lag_seconds
    await until(lambda: told.relay.lag_seconds > before)
