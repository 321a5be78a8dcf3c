"""A ledger that nobody has analyzed yet: plans made on nothing still find rows by index when the tables have grown."""

import asyncpg
import pytest

from tests.plans.test_requests import sessions_ended
from tests.support.client import Client, new_key
from tests.support.postgres import create_database, drop_database
from tests.support.service import in_process

ACCOUNTS = 1_000
BATCHES = 20
BATCH = 200
# Batches that come while the tables are all but empty: as many as it takes for a plan to be kept, twice over.
EARLY = 10


async def rows_read(url: str) -> dict[str, int]:
    """Return for each table the rows read of it so far, through indexes or from end to end."""
    connection = await asyncpg.connect(url)
    try:
        await sessions_ended(connection)
        rows = await connection.fetch(
            "SELECT t.relname, coalesce(t.seq_tup_read, 0) + (SELECT coalesce(sum(i.idx_tup_read), 0)"
            " FROM pg_stat_user_indexes AS i WHERE i.relid = t.relid) FROM pg_stat_user_tables AS t"
        )
        return {row[0]: int(row[1]) for row in rows}
    finally:
        await connection.close()


async def post(client: Client, number: int) -> None:
    """Post a batch between two accounts out of a hundred."""
    items = [
        {
            "key": new_key(),
            "source": f"a{number % 50}",
            "destination": f"a{50 + place % 50}",
            "amount": 1,
            "currency": "EUR",
        }
        for place in range(BATCH)
    ]
    answer = await client.post("/v1/transfers/bulk", {"atomic": False, "transfers": items})
    assert {item["status"] for item in answer.json["results"]} == {201}


@pytest.mark.parametrize("accounts_first", [True, False])
async def test_postings_read_what_they_name(template: str, *, accounts_first: bool) -> None:
    """Batches on tables without statistics read their accounts and keys, however many others there are by then."""
    url = await create_database(template)
    try:
        connection = await asyncpg.connect(url)
        for table in ("accounts", "transfers"):
            await connection.execute(f"ALTER TABLE tallystick.{table} SET (autovacuum_enabled = off)")
        await connection.close()
        async with in_process(url, posting_connections=1) as service:
            client = await service.client("young")
            opened = [{"id": f"a{number}", "currency": "EUR", "floor": None} for number in range(ACCOUNTS)]
            await client.post("/v1/accounts/bulk", {"accounts": opened if accounts_first else opened[:100]})
            for number in range(EARLY):
                await post(client, number)
            await client.post("/v1/accounts/bulk", {"accounts": opened})
            for number in range(BATCHES):
                await post(client, number)
        read = await rows_read(url)
    finally:
        await drop_database(template, url)
    batches = EARLY + BATCHES
    # Each account of a batch is locked and then updated; a row that was updated is met under its old entries too.
    assert 0 < read["accounts"] < batches * 51 * 2 * 4 + 4 * ACCOUNTS, read
    # No key was known before, so there is nothing to be read.
    assert read["transfers"] < batches * 10, read
