"""
When a copy of PostgreSQL's files is put back while Redis goes on, no answer contains anything that the copy lacks.
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import asyncpg
import pytest

from server.events.relay import Relay
from server.store.keyspace import SNAPSHOT_MS
from server.store.migrations import migrate
from tests.support.books import check_books
from tests.support.client import Answer, Client
from tests.support.folders import server_folder
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import administer
from tests.support.service import in_process, make_key
from tests.support.valkey import OwnValkey, running_valkey
from tests.support.waiting import until

LEDGER = "restored"
# Seconds in which a service finds its database again.
BACK_SECONDS = 45.0


class Scene:
    """
    Two services on one PostgreSQL and one Redis, with the settings of a server.

    Args:
        database_url: Address of PostgreSQL.

        valkey: The Redis server.

        token: An API key.
    """

    def __init__(self, database_url: str, valkey: OwnValkey, token: str) -> None:
        self._database_url = database_url
        self._token = token
        self._running = AsyncExitStack()
        self.valkey = valkey
        self.clients: list[Client] = []

    async def start(self) -> None:
        """Start the services and make clients for them."""
        for _ in range(2):
            service = await self._running.enter_async_context(in_process(self._database_url, self.valkey.url))
            self.clients.append(Client(service.session, service.url, self._token))

    async def stop(self) -> None:
        """Stop the services."""
        await self._running.aclose()
        self.clients.clear()


async def reads(client: Client, account: str = "alice") -> bool:
    """Whether an account can be read."""
    return (await client.get(f"/v1/accounts/{account}")).status == 200


@asynccontextmanager
async def serving(database_url: str, valkey: OwnValkey) -> AsyncIterator[Scene]:
    """Run the services."""
    scene = Scene(database_url, valkey, await make_key(database_url, LEDGER))
    try:
        await scene.start()
        yield scene
    finally:
        await scene.stop()


@pytest.fixture(scope="module")
def lasting_valkey() -> Iterator[OwnValkey]:
    """A Redis for all tests of this file, because one that has been up for a while is read from at once."""
    with server_folder("ts-") as folder, running_valkey(folder) as server:
        yield server


@pytest.fixture
def valkey(lasting_valkey: OwnValkey) -> OwnValkey:
    """The same Redis, emptied; it goes on whatever happens to PostgreSQL."""
    lasting_valkey.ask("FLUSHALL")
    return lasting_valkey


async def insist(client: Client, amount: int, key: str) -> Answer:
    """Send a transfer from alice to bob until it has a final answer."""
    answers: list[Answer] = []

    async def answered() -> bool:
        answers.append(await client.transfer("alice", "bob", amount, key))
        assert answers[-1].status in (201, 503), answers[-1]
        return answers[-1].status == 201

    await until(answered, BACK_SECONDS)
    return answers[-1]


async def cached(scene: Scene, account: str) -> None:
    """Return when Redis holds the account's snapshot, after every service was asked for the account."""

    async def stored() -> bool:
        for client in scene.clients:
            await client.account(account)
        names = scene.valkey.ask("KEYS", f"*:s:*:{account}")
        return bool(names) and (scene.valkey.ask("GET", names[0]) or b"").startswith(b"S")

    await until(stored, BACK_SECONDS)


@pytest.mark.parametrize("goes_on", [True, False], ids=["the services go on", "the services are restarted"])
async def test_a_copy_is_put_back(own_postgres: OwnPostgres, valkey: OwnValkey, *, goes_on: bool) -> None:
    """
    A transfer posted after the copy can be posted once more under the same key, and through each service every balance
    is that of the copy plus what came later.
    """
    await migrate(own_postgres.database_url)
    async with serving(own_postgres.database_url, valkey) as scene:
        one, two = scene.clients
        await one.fund("alice", 100)
        await one.open("bob")
        kept = await one.transfer("alice", "bob", 1, "before-the-copy")
        await own_postgres.crash()
        own_postgres.copy()
        own_postgres.start()
        first = await insist(one, 10, "k")
        assert not first.replayed
        again = await insist(two, 10, "k")
        assert (again.body, again.replayed) == (first.body, True)
        await cached(scene, "alice")
        await cached(scene, "bob")
        assert [(await client.balance("bob")) for client in scene.clients] == [11, 11]
        await own_postgres.crash()
        own_postgres.put_back()
        if not goes_on:
            await scene.stop()
        own_postgres.start()
        # WAL that the copy writes by itself does not show which history it has seen.
        await administer(own_postgres.database_url, "SELECT pg_switch_wal()")
        if not goes_on:
            await scene.start()
            one, two = scene.clients
        # The amount differs from the one before the restore, because the key is free again.
        posted = await insist(two, 20, "k")
        assert not posted.replayed
        for client in scene.clients:
            # The other service finds the database again at its next successful probe.
            await until(partial(reads, client), BACK_SECONDS)
            assert (await client.balance("alice"), await client.balance("bob")) == (79, 21)
            again = await insist(client, 20, "k")
            assert (again.body, again.replayed) == (posted.body, True)
            again = await insist(client, 1, "before-the-copy")
            assert (again.body, again.replayed) == (kept.body, True)
    await check_books(own_postgres.database_url)


async def test_a_dump_is_read_back(
    own_postgres: OwnPostgres, valkey: OwnValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """
    If tables are emptied and filled from a dump, in the same database and server, the services notice it in a moment.
    """
    await migrate(own_postgres.database_url)
    async with serving(own_postgres.database_url, valkey) as scene:
        one, two = scene.clients
        await one.fund("alice", 100)
        await one.open("bob")
        connection = await asyncpg.connect(own_postgres.database_url)
        try:
            await connection.execute("CREATE TABLE dump AS SELECT * FROM tallystick.transfers")
            await connection.execute("CREATE TABLE dumped AS SELECT * FROM tallystick.accounts")
            first = await insist(one, 10, "k")
            assert (await insist(two, 10, "k")).body == first.body
            async with connection.transaction():
                await connection.execute("TRUNCATE tallystick.transfers, tallystick.accounts CASCADE")
                await connection.execute("INSERT INTO tallystick.accounts SELECT * FROM dumped")
                await connection.execute("INSERT INTO tallystick.transfers SELECT * FROM dump")
        finally:
            await connection.close()

        await until(lambda: caplog.text.count("restarted, restored or replaced") >= len(scene.clients))
        posted = await insist(two, 10, "k")
        assert not posted.replayed
        for client in scene.clients:
            assert (await client.balance("alice"), await client.balance("bob")) == (90, 10)
    await check_books(own_postgres.database_url)


async def happen(database_url: str, client: Client, *accounts: str) -> None:
    """Open accounts, as soon as the service finds its database, and give these events their positions."""

    async def opens(account: str) -> bool:
        return (await client.open(account)).status in (200, 201)

    for account in accounts:
        await until(partial(opens, account), BACK_SECONDS)
    relay = Relay(database_url)
    await relay.step()
    await relay.close()


async def test_positions_are_given_again(own_postgres: OwnPostgres, valkey: OwnValkey) -> None:
    """A reader ahead of the copy is told so only until the ledger has its position again: docs/how-to/restore.md."""
    url = own_postgres.database_url
    await migrate(url)
    async with serving(url, valkey) as scene:
        client = scene.clients[0]
        await happen(url, client, "before")
        await own_postgres.crash()
        own_postgres.copy()
        own_postgres.start()
        await happen(url, client, "lost")
        [kept, lost] = (await client.get("/v1/events")).json["data"]
        await own_postgres.crash()
        own_postgres.put_back()
        own_postgres.start()
        await until(partial(reads, client, "before"), BACK_SECONDS)
        assert (await client.get("/v1/events?after=2")).code == "position_not_reached"
        await happen(url, client, "new", "newest")
        [newest] = (await client.get("/v1/events?after=2")).json["data"]
        assert newest["subject"] == "newest"
        page = (await client.get("/v1/events?limit=2")).json["data"]
        assert page[0] == kept
        assert (page[1]["id"], page[1]["subject"]) == (lost["id"], "new")


async def test_a_number_is_given_again(own_postgres: OwnPostgres, valkey: OwnValkey) -> None:
    """A new ledger that gets the number of one that the copy lacks has its own name in its events."""
    url = own_postgres.database_url
    await migrate(url)
    await own_postgres.crash()
    own_postgres.copy()
    own_postgres.start()
    async with in_process(url, valkey.url) as service:

        async def first_event(ledger: str) -> dict[str, str]:
            client = Client(service.session, service.url, await make_key(url, ledger))
            await happen(url, client, "alice")
            event: dict[str, str] = (await client.get("/v1/events")).json["data"][0]
            return event

        assert (await first_event("lost"))["id"] == "lost/1"
        await own_postgres.crash()
        own_postgres.put_back()
        own_postgres.start()
        event = await first_event("new")
        assert (event["id"], event["source"]) == ("new/1", "/ledgers/new")


async def test_no_replay_while_postgres_is_away(own_postgres: OwnPostgres, valkey: OwnValkey) -> None:
    """
    While PostgreSQL is down it may be in the middle of a restore, so a replay waits for it, and an account is read from
    Redis only as long as a snapshot lives. After a restart, the same services answer everything as before.
    """
    await migrate(own_postgres.database_url)
    async with serving(own_postgres.database_url, valkey) as scene:
        one, two = scene.clients
        await one.fund("alice", 100)
        await one.open("bob")
        first = await one.transfer("alice", "bob", 10, "k")
        assert (await two.transfer("alice", "bob", 10, "k")).replayed
        began = time.monotonic()
        await cached(scene, "bob")
        await own_postgres.crash()

        async def refused() -> bool:
            return (await two.transfer("alice", "bob", 10, "k")).status == 503

        await until(refused)
        # On a busy machine, stopping PostgreSQL can take as long as a snapshot lives, and Redis may not answer in time.
        if time.monotonic() - began < SNAPSHOT_MS / 2_000:
            await until(partial(reads, two, "bob"), SNAPSHOT_MS / 2_000)
            assert await two.balance("bob") == 10
        assert (await two.transfer("alice", "bob", 10, "k")).status == 503
        own_postgres.start()
        for client in scene.clients:
            again = await insist(client, 10, "k")
            assert (again.body, again.replayed) == (first.body, True)
            await until(partial(reads, client), BACK_SECONDS)
            assert await client.balance("bob") == 10
