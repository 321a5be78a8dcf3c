"""The welcome text of `serve` with embedded servers: a demo ledger, its key, and three lines to paste."""

import os
from pathlib import Path

from server.gate.key_store import create_key, revoke_whole_key
from server.gate.keys import Authenticator
from server.store.postgres import Database

LEDGER = "demo"
# In the data directory of the embedded servers, readable only by its owner. The key stays the same after a restart.
KEY_FILE = "demo.key"


async def demo_key(database_url: str, data_dir: Path) -> str:
    """Return the key of the demo ledger: the one in the data directory if it is still valid, otherwise a new one."""
    path = data_dir / KEY_FILE
    async with Database(database_url, posting_connections=1, reading_connections=1) as database:
        kept = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if kept and await Authenticator(database).authenticate(kept) is not None:
            return kept
        key = await create_key(database, LEDGER, "admin")
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(key + "\n")
        except OSError as error:
            await revoke_whole_key(database, key)
            # The error of a full disk does not name the file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        return key


def welcome(url: str, key: str) -> str:
    """Return the text that `tallystick serve` prints with the embedded servers."""
    post = f"curl -s {url}/v1/%s -H 'Authorization: Bearer '$KEY -H 'Content-Type: application/json'"
    accounts = '{"accounts":[{"id":"world","currency":"EUR","floor":null},{"id":"customer:42","currency":"EUR"}]}'
    transfer = '{"source":"world","destination":"customer:42","amount":1250,"currency":"EUR"}'
    return f"""
Tallystick serves at {url} (embedded PostgreSQL and Valkey, demo ledger "{LEDGER}"). Try it in another terminal:

  KEY={key}
  {post % "accounts/bulk"} -d '{accounts}'
  {post % "transfers"} -H 'Idempotency-Key: first-payment' -d '{transfer}'
  curl -s {url}/v1/accounts/customer:42 -H 'Authorization: Bearer '$KEY

Send the second line again: the money moves once, and the answer is the same. Ctrl-C stops it; the data stays.
"""
