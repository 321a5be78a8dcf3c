"""
Transfers and API keys by SQL: what thousands of requests and commands would have left behind, within minutes.

All of it is done as the superuser of a server's own database, while nobody posts to the ledgers concerned.
"""

import hashlib
import secrets
import time
import zlib
from collections.abc import Callable, Sequence

import asyncpg

# Transfers of one transaction: so few that the time left is looked at often, and that sorting them stays in memory.
CHUNK = 250_000
# One chunk, on a slow disk.
STATEMENT_SECONDS_MAX = 300.0
# A tenth of the transfers come from the first account, as from one that everybody uses.
MOVES = """
    CREATE TEMPORARY TABLE moves AS
    SELECT n, 1 + n % 500 AS amount, $2::timestamptz + n * interval '1 microsecond' AS created_at,
           'load:' || source AS source, 'load:' || (source + 1 + step) % $3::bigint AS destination
    FROM (
        SELECT n, CASE WHEN n % 10 = 0 THEN 0 ELSE floor(random() * $3::bigint)::bigint END AS source,
               floor(random() * ($3::bigint - 1))::bigint AS step
        FROM generate_series(1, $1::bigint) AS n
    ) AS m
"""
SIDES = """
    CREATE TEMPORARY TABLE sides AS
    SELECT s.n, s.account, s.signed < 0 AS is_source, s.created_at,
           a.balance + sum(s.signed) OVER w AS balance, a.version + row_number() OVER w AS version
    FROM (
        SELECT n, source AS account, -amount AS signed, created_at FROM moves
        UNION ALL
        SELECT n, destination, amount, created_at FROM moves
    ) AS s
    JOIN tallystick.accounts AS a ON a.ledger_id = $1 AND a.id = s.account
    WINDOW w AS (PARTITION BY s.account ORDER BY s.n)
"""
TRANSFERS = """
    INSERT INTO tallystick.transfers (
        ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at, id,
        idempotency_key, fingerprint, kind, source, destination, currency, metadata
    )
    SELECT $1, m.amount, s.balance, d.balance, s.version, d.version, m.created_at, uuidv7(),
           uuidv7()::text, sha256(m.n::text::bytea), 'transfer', m.source, m.destination, 'EUR', '{}'::json
    FROM moves AS m
    JOIN sides AS s ON s.n = m.n AND s.is_source
    JOIN sides AS d ON d.n = m.n AND NOT d.is_source
    ORDER BY m.n
"""
ACCOUNTS = """
    UPDATE tallystick.accounts AS a
    SET balance = s.balance, version = s.version, last_entry_at = s.created_at
    FROM (
        SELECT DISTINCT ON (account) account, balance, version, created_at FROM sides ORDER BY account, version DESC
    ) AS s
    WHERE a.ledger_id = $1 AND a.id = s.account
"""
# Later than any entry there is.
START = """
    SELECT greatest(clock_timestamp(), max(last_entry_at)) FROM tallystick.accounts WHERE ledger_id = $1
"""
LEDGER = "SELECT max(ledger_id) FROM tallystick.accounts WHERE id = $1"
COUNT = "SELECT count(*) FROM tallystick.transfers"
NEW_LEDGER = "INSERT INTO tallystick.ledgers (name) VALUES ($1) RETURNING id"
# As `PLENTY` is for a key that a command makes.
NEW_KEY = """
    INSERT INTO tallystick.api_keys (ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency)
    VALUES ($1, $2, $3, 'admin', 1000000, 1, 1000000, 100000)
"""


async def fill(url: str, accounts: Sequence[str], size: int, until: float, tell: Callable[[int], None]) -> int:
    """
    Fill the newest ledger that has these accounts until the database holds *size* transfers or time is up.

    Args:
        accounts: All of the ledger, named `load:0` and so on.

        until: Instant of the monotonic clock after which no further chunk is begun.

        tell: Called with the number of transfers now and then.

    Returns:
        The transfers that the database holds.
    """
    connection = await asyncpg.connect(url, command_timeout=STATEMENT_SECONDS_MAX)
    try:
        await connection.execute("SET work_mem = '256MB'")
        ledger = await connection.fetchval(LEDGER, accounts[0])
        held: int = await connection.fetchval(COUNT)
        began_with = held
        while held < size and time.monotonic() < until:
            chunk = min(CHUNK, size - held)
            async with connection.transaction():
                start = await connection.fetchval(START, ledger)
                await connection.execute("DROP TABLE IF EXISTS moves, sides")
                await connection.execute(MOVES, chunk, start, len(accounts))
                for statement in (SIDES, TRANSFERS, ACCOUNTS):
                    await connection.execute(statement, ledger)
            held += chunk
            tell(held)
        if held > began_with:
            await connection.execute("VACUUM (ANALYZE) tallystick.accounts, tallystick.transfers")
        return held
    finally:
        await connection.close()


async def new_keys(url: str, ledgers: int, keys: int) -> list[str]:
    """Make new ledgers and so many admin keys with plenty, which open one ledger after the other; return the keys."""
    connection = await asyncpg.connect(url, command_timeout=STATEMENT_SECONDS_MAX)
    try:
        ids = [await connection.fetchval(NEW_LEDGER, f"bench-{secrets.token_hex(8)}") for _ in range(ledgers)]
        made = [_new_key(ids[number % ledgers]) for number in range(keys)]
        await connection.executemany(NEW_KEY, [row for _, row in made])
        return [token for token, _ in made]
    finally:
        await connection.close()


def _new_key(ledger: int) -> tuple[str, tuple[int, str, bytes]]:
    """Return a key as `tallystick keys create` prints it, and what is kept of it."""
    key_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
    body = f"tsk_{ledger:x}_{key_id}_{secret.hex()}"
    return f"{body}{zlib.crc32(body.encode()):08x}", (ledger, key_id, hashlib.sha256(secret).digest())
