"""Makes transfers and API keys by SQL, as a database superuser, while nobody posts to these ledgers."""

import hashlib
import itertools
import re
import secrets
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import asyncpg

# Transfers of one transaction: few, so that the clock is checked often and sorting them stays in memory.
CHUNK = 250_000
# The longest time for one chunk, on a slow disk.
STATEMENT_SECONDS_MAX = 300.0
_BLOCKS = re.split(
    r"^-- name: (\w+).*\n", Path(__file__).with_name("statements.sql").read_text(encoding="utf-8"), flags=re.MULTILINE
)
_STATEMENTS = dict(zip(_BLOCKS[1::2], _BLOCKS[2::2], strict=True))


def statement(name: str) -> str:
    return _STATEMENTS[name]


async def fill(url: str, accounts: Sequence[str], size: int, until: float) -> int:
    """
    Fill the newest ledger that has these accounts until the database holds *size* transfers or time is up.

    Return how many it holds. `accounts`: all accounts of the ledger. `until`: instant of the monotonic clock.
    """
    # The functions find tables by this search path.
    path = {"search_path": "tallystick"}
    connection = await asyncpg.connect(url, command_timeout=STATEMENT_SECONDS_MAX, server_settings=path)
    try:
        await connection.execute("SET work_mem = '256MB'")
        ledger = await connection.fetchval(statement("ledger"), accounts[0])
        held: int = await connection.fetchval(statement("count"))
        began_with = held
        while held < size and time.monotonic() < until:
            chunk = min(CHUNK, size - held)
            async with connection.transaction():
                start = await connection.fetchval(statement("start"), ledger)
                await connection.execute("DROP TABLE IF EXISTS moves, sides")
                await connection.execute(statement("moves"), chunk, start, len(accounts))
                for name in ("sides", "transfers", "outbox", "accounts"):
                    await connection.execute(statement(name), ledger)
            while not await connection.fetchval(statement("relay")):
                pass
            held += chunk
        if held > began_with:
            await connection.execute("VACUUM (ANALYZE) accounts, transfers, outbox, feed")
        return held
    finally:
        await connection.close()


async def new_keys(url: str, ledgers: int, keys: int) -> list[str]:
    """Make new ledgers, and so many admin keys with generous limits, which belong to the ledgers in turn."""
    connection = await asyncpg.connect(url, command_timeout=STATEMENT_SECONDS_MAX)
    try:
        names = [f"bench-{secrets.token_hex(8)}" for _ in range(ledgers)]
        ids = [await connection.fetchval(statement("new_ledger"), name) for name in names]
        tokens, rows = [], []
        for ledger in itertools.islice(itertools.cycle(ids), keys):
            # As `tallystick keys create` makes them.
            key_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
            body = f"tsk_{ledger:x}_{key_id}_{secret.hex()}"
            tokens.append(f"{body}{zlib.crc32(body.encode()):08x}")
            rows.append((ledger, key_id, hashlib.sha256(secret).digest()))
        await connection.executemany(statement("new_key"), rows)
        return tokens
    finally:
        await connection.close()
