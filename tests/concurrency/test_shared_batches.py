"""Batches of several ledgers on several connections: whatever they share, they wait for one another in one order."""

import asyncio
import random
from collections import Counter

import asyncpg

from server.ledger.ids import new_transfer_id
from server.ledger.post_transfers import columns
from server.ledger.transfers import TransferRequest
from server.ledger.unit import Unit
from server.store.sessions import SESSION_SETTINGS
from server.store.sql import query
from tests.support.books import check_books
from tests.support.postgres import administer

CONNECTIONS = 6
LEDGERS = 8
BATCHES = 60
UNITS_MAX = 12
# So few that batches of two connections nearly always share some.
ACCOUNTS = 6
KEYS = 400
# What a batch may meet, and is then sent again: a key bound meanwhile, and a row that stayed locked.
PASSING = (asyncpg.UniqueViolationError, asyncpg.LockNotAvailableError)


def unit_of(ledger_id: int, chance: random.Random, taken: set[str]) -> Unit:
    """Return a single request, a bulk or a set, with keys that others use too, but no other unit of the batch."""
    requests = []
    for _ in range(chance.choice((1, 1, 1, 3, 5))):
        key = f"key-{chance.randrange(KEYS)}"
        if key in taken:
            continue
        taken.add(key)
        source, destination = chance.sample(range(ACCOUNTS), 2)
        request = TransferRequest(
            key, bytes(32), new_transfer_id(), f"a{source}", f"a{destination}", chance.choice((1, 1_000_000)), "EUR",
            None, None, "{}", None, "request", None, None, None,
        )  # fmt: skip
        requests.append(request)
    return Unit(ledger_id, tuple(requests), 0.0, 0.0, atomic=len(requests) > 1 and chance.random() < 0.5)


async def work(database_url: str, ids: list[int], seed: int) -> Counter[str]:
    """Send random batches, each until it is posted, and count what became of them."""
    chance, counted = random.Random(seed), Counter[str]()
    connection = await asyncpg.connect(database_url, server_settings=SESSION_SETTINGS)
    try:
        for _ in range(BATCHES):
            units = []
            for ledger_id in sorted(chance.sample(ids, chance.randrange(1, LEDGERS + 1))):
                taken: set[str] = set()
                units += [unit_of(ledger_id, chance, taken) for _ in range(chance.randrange(1, UNITS_MAX))]
            arrays = columns([unit for unit in units if unit.requests])
            while True:
                waits = [chance.random() < 0.7 for _ in arrays.ledgers]
                try:
                    row = await connection.fetchrow(query("transfer_post_many"), *arrays.arguments, waits, 250)
                except PASSING as error:
                    counted[type(error).__name__] += 1
                    continue
                assert row is not None
                counted.update(row["outcomes"])
                break
    finally:
        await connection.close()
    return counted


async def test_random_batches_never_deadlock(database_url: str) -> None:
    """Six connections send random batches over eight ledgers, with shared keys and accounts; the books add up."""
    for number in range(LEDGERS):
        await administer(database_url, "INSERT INTO tallystick.ledgers (name) VALUES ($1)", f"shared-{number}")
    rows = await administer(database_url, "SELECT id FROM tallystick.ledgers")
    await administer(
        database_url,
        "INSERT INTO tallystick.accounts (ledger_id, id, currency, floor, created_at)"
        " SELECT id, 'a' || n, 'EUR', -1000, now() FROM tallystick.ledgers, generate_series(0, $1::integer - 1) AS n",
        ACCOUNTS,
    )
    ids = [row["id"] for row in rows]
    async with asyncio.timeout(120):
        # A deadlock is an error that is not among those that pass.
        counted = sum(
            await asyncio.gather(*(work(database_url, ids, seed) for seed in range(CONNECTIONS))), Counter[str]()
        )
    assert {"posted", "known", "unbound", "locked", "insufficient_funds", "linked_failed"} <= counted.keys(), counted
    await check_books(database_url)
