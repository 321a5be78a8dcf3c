"""What the ledger says in the end, asked over HTTP and written into a history."""

import asyncio
from urllib.parse import quote

from loadtests.client import Client
from loadtests.errors import NotRunError
from loadtests.history.recorder import Recorder

# Times the books are read until nothing has moved meanwhile. Requests that nobody waits for any more may still run.
READINGS_MAX = 12
# Seconds between two readings: the last holds expire meanwhile, each of which moves its accounts on.
PAUSE_SECONDS = 1.0


async def record_books(client: Client, recorder: Recorder, prefix: str, ledger: str = "") -> int:
    """
    Write down all accounts whose ids begin with the prefix, their statements and what became of holds.

    Returns the number of accounts.

    The key of a transfer is what its `reference` says: clients that record a history put it there.
    """
    for _ in range(READINGS_MAX):
        accounts = [account async for account in client.pages("/v1/accounts", prefix=prefix)]
        entries = [
            (account["id"], entry)
            for account in accounts
            async for entry in client.pages(f"/v1/accounts/{quote(account['id'], safe='')}/entries")
        ]
        # Each once, by its source; a transfer has its entries.
        rows = [
            row
            for account in accounts
            async for row in client.pages("/v1/transfers", account=account["id"])
            if row["source"] == account["id"] and row["kind"] != "transfer"
        ]
        again = [(a["id"], a["version"]) async for a in client.pages("/v1/accounts", prefix=prefix)]
        if again == [(a["id"], a["version"]) for a in accounts]:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    else:
        raise NotRunError(f"the accounts {prefix}* moved on during {READINGS_MAX} readings of the books")
    for account in accounts:
        fields = {name: account[name] for name in ("id", "currency", "balance", "version", "floor")}
        recorder.write({"event": "account", "ledger": ledger, **fields})
    for account_id, entry in entries:
        fields = {name: entry[name] for name in ("transfer_id", "amount", "counterparty", "balance", "version")}
        key = entry["reference"] or ""
        recorder.write({"event": "entry", "ledger": ledger, "account": account_id, "key": key, **fields})
    for row in rows:
        texts = {name: row[name] or "" for name in ("kind", "parent", "source", "destination", "created_at")}
        named = {"transfer_id": row["id"], "key": row["reference"] or "", "amount": row["amount"]}
        recorder.write({"event": "row", "ledger": ledger, **named, **texts})
    return len(accounts)
