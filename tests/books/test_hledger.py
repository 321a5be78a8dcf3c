"""A journal that is exported has the same balances in hledger, an independent program."""

import asyncio
import csv
import io
import os
import re
from pathlib import Path

import pytest

from tests.books.book import ACCOUNTS, LEDGER, export, made_book
from tests.support.balancer import program
from tests.support.postgres import administer
from tests.support.service import in_process

_AMOUNT = re.compile(r'(-?[0-9]+) (?:"([A-Z0-9]+)"|([A-Z]+))')


async def hledger(journal: Path, *words: str) -> str:
    """Run hledger over a journal and return its output."""
    child = await asyncio.create_subprocess_exec(
        *(program("hledger"), "-f", str(journal), *words),
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    assert child.returncode == 0, err.decode()
    return out.decode()


async def balances(journal: Path, *words: str) -> dict[str, int]:
    """Return hledger's balances, after a check of each currency."""
    found = {}
    text = await hledger(journal, "balance", "--flat", "--empty", "--no-total", "--output-format", "csv", *words)
    for account, amount in list(csv.reader(io.StringIO(text)))[1:]:
        match = _AMOUNT.fullmatch(amount)
        if match is None:
            assert amount == "0"
            continue
        assert (match[2] or match[3]) == ACCOUNTS[account]
        found[account] = int(match[1])
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_it_agrees(database_url: str, tmp_path: Path, seed: int) -> None:
    """hledger finds all accounts and every balance to the last unit, today and on a day long ago."""
    program("hledger")
    async with made_book(database_url, seed):
        await export(database_url, LEDGER, "hledger", tmp_path)
        rows = await administer(database_url, "SELECT id, balance FROM tallystick.accounts")
        moved = await administer(
            database_url,
            """
            SELECT account, sum(amount)::bigint AS balance FROM (
                SELECT source AS account, -amount AS amount, coalesce(effective_at, created_at) AS at
                FROM tallystick.transfers WHERE moves
                UNION ALL
                SELECT destination, amount, coalesce(effective_at, created_at) FROM tallystick.transfers WHERE moves
            ) AS e
            WHERE at < date_trunc('day', tallystick.ledger_clock(), 'UTC') - interval '100 days'
            GROUP BY account
            """,
        )
        [day] = await administer(
            database_url, "SELECT (tallystick.ledger_clock() AT TIME ZONE 'UTC')::date - 100 AS day"
        )
    journal = tmp_path / f"{LEDGER}.hledger"
    await hledger(journal, "check", "accounts")
    assert sorted((await hledger(journal, "accounts", "--declared")).split()) == sorted(ACCOUNTS)
    assert await balances(journal) == {row["id"]: row["balance"] for row in rows if row["balance"]}
    past = {row["account"]: row["balance"] for row in moved if row["balance"]}
    assert past
    assert await balances(journal, "--end", day["day"].isoformat()) == past


async def test_the_widest_numbers(database_url: str, tmp_path: Path) -> None:
    """The largest amounts are not rounded."""
    program("hledger")
    edge = 2**63 - 1
    async with in_process(database_url) as service:
        client = await service.client(LEDGER)
        for account in ("world", "customer:1", "customer"):
            await client.open(account, floor=None)
        for number, pair in enumerate((("world", "customer:1"), ("customer:1", "customer"), ("world", "customer:1"))):
            assert (await client.transfer(*pair, edge - number, f"k{number}")).status in (201, 409)
    await export(database_url, LEDGER, "hledger", tmp_path)
    found = await balances(tmp_path / f"{LEDGER}.hledger")
    rows = await administer(database_url, "SELECT id, balance FROM tallystick.accounts WHERE balance <> 0")
    assert found == {row["id"]: row["balance"] for row in rows}
    assert max(map(abs, found.values())) >= edge
