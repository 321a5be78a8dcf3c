"""Batches of several ledgers on several connections lock whatever they share in one order, so they never deadlock."""

import asyncio
import random
from collections import Counter
from functools import partial

import asyncpg

from server.ledger.ids import new_transfer_id
from server.ledger.post_transfers import columns
from server.ledger.transfers import TransferRequest
from server.ledger.unit import Unit
from server.store.sessions import SESSION_SETTINGS
from server.store.sql import query
from tests.support.books import check_books
from tests.support.locks import inserts_held, somebody_waits
from tests.support.postgres import administer
from tests.support.waiting import until

CONNECTIONS = 6
LEDGERS = 8
BATCHES = 60
UNITS_MAX = 12
# So few that batches on two connections nearly always share some.
ACCOUNTS = 6
# Keys of a ledger that are new at about the same time.
KEYS = 30
# Deadlocks are detected quickly, and no statement times out before.
SETTINGS = {**SESSION_SETTINGS, "deadlock_timeout": "50", "statement_timeout": "60000"}
WAIT_MS = 60_000


def request(key: str, source: str, destination: str, amount: int = 1) -> TransferRequest:
    """Return a request for a transfer."""
    return TransferRequest(
        key, bytes(32), new_transfer_id(), source, destination, amount, "EUR",
        None, None, "{}", None, "request", None, None, None,
    )  # fmt: skip


def unit_of(ledger_id: int, number: int, chance: random.Random, taken: set[str]) -> Unit:
    """Return a single request, a bulk or a set; other batches use the same keys, but no other unit of this batch."""
    requests = []
    for _ in range(chance.choice((1, 1, 1, 3, 5))):
        key = f"key-{number}-{chance.randrange(KEYS)}"
        if key in taken:
            continue
        taken.add(key)
        source, destination = (f"a{account}" for account in chance.sample(range(ACCOUNTS), 2))
        requests.append(request(key, source, destination, chance.choice((1, 1_000_000))))
    return Unit(ledger_id, tuple(requests), 0.0, 0.0, atomic=len(requests) > 1 and chance.random() < 0.5)


async def send(connection: asyncpg.Connection, units: list[Unit], chance: random.Random) -> Counter[str]:
    """Send a batch until it is posted, and count the outcomes."""
    arrays = columns(units)
    counted = Counter[str]()
    while True:
        waits = [chance.random() < 0.7 for _ in arrays.ledgers]
        try:
            row = await connection.fetchrow(query("transfer_post_many"), *arrays.arguments, waits, WAIT_MS, True)
        except asyncpg.UniqueViolationError:
            # Another batch bound a key at the same time; the next attempt finds it.
            counted["bound meanwhile"] += 1
            continue
        assert row is not None
        return counted + Counter(row["outcomes"])


async def work(database_url: str, ids: list[int], seed: int) -> Counter[str]:
    """Send random batches, and count the outcomes."""
    chance, counted = random.Random(seed), Counter[str]()
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    try:
        for number in range(BATCHES):
            units = []
            for ledger_id in sorted(chance.sample(ids, chance.randrange(1, LEDGERS + 1))):
                taken: set[str] = set()
                units += [unit_of(ledger_id, number, chance, taken) for _ in range(chance.randrange(1, UNITS_MAX))]
            counted += await send(connection, [unit for unit in units if unit.requests], chance)
    finally:
        await connection.close()
    return counted


async def made(database_url: str) -> list[int]:
    """Create the ledgers with their accounts, and return their ids."""
    for number in range(LEDGERS):
        await administer(database_url, "INSERT INTO tallystick.ledgers (name) VALUES ($1)", f"shared-{number}")
    await administer(
        database_url,
        "INSERT INTO tallystick.accounts (ledger_id, id, currency, floor, created_at)"
        " SELECT id, 'a' || n, 'EUR', -1000, now() FROM tallystick.ledgers, generate_series(0, $1::integer - 1) AS n",
        ACCOUNTS,
    )
    return [row["id"] for row in await administer(database_url, "SELECT id FROM tallystick.ledgers ORDER BY id")]


async def test_random_batches_never_deadlock(database_url: str) -> None:
    """Six connections send random batches over eight ledgers with shared keys and accounts: none deadlocks."""
    ids = await made(database_url)
    async with asyncio.timeout(120):
        counts = await asyncio.gather(*(work(database_url, ids, seed) for seed in range(CONNECTIONS)))
    counted = sum(counts, Counter[str]())
    assert {"posted", "known", "unbound", "locked", "insufficient_funds", "linked_failed"} <= counted.keys(), counted
    await check_books(database_url)


async def test_batches_that_share_only_keys_never_deadlock(database_url: str) -> None:
    """
    If no account exists, no lock separates the batches: all bind the same keys at once, each in the order of ledgers
    and keys, whatever the order of its requests.
    """
    ids = await made(database_url)
    connections = [await asyncpg.connect(database_url, server_settings=SETTINGS) for _ in range(CONNECTIONS)]

    def batch(chance: random.Random) -> list[Unit]:
        return [
            Unit(ledger_id, (request(f"key-{number}", "nobody", "no-one"),), 0.0, 0.0)
            for ledger_id in ids
            for number in chance.sample(range(KEYS), KEYS)
        ]

    try:
        async with asyncio.timeout(60), inserts_held(database_url):
            sendings = [
                asyncio.ensure_future(send(connection, batch(random.Random(seed)), random.Random(seed)))
                for seed, connection in enumerate(connections)
            ]
            await until(partial(somebody_waits, database_url, CONNECTIONS))
        async with asyncio.timeout(60):
            counted = sum(await asyncio.gather(*sendings), Counter[str]())
    finally:
        for connection in connections:
            await connection.close()
    every = LEDGERS * KEYS
    assert counted == {
        "account_not_found": every, "known": every * (CONNECTIONS - 1), "bound meanwhile": CONNECTIONS - 1
    }  # fmt: skip
