"""The books of a run: how they are opened over HTTP, and what they say in the end; both go into its history."""

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import quote

from loadtests.client import Client
from loadtests.errors import NotRunError
from loadtests.history.recorder import Heard, Recorder
from loadtests.payers import BULK, CURRENCY, body_of

# Accounts or transfers of one request: an item costs a token, and more at once than the bucket of a key holds are never
# let through.
ITEMS_MAX = 20
# Times the books are read until nothing has moved meanwhile. Requests that nobody waits for any more may still run.
READINGS_MAX = 12
# Seconds between two readings: the last holds expire meanwhile, each of which moves its accounts on.
PAUSE_SECONDS = 1.0


async def open_books(
    client: Client, recorder: Recorder, world: str, accounts: Sequence[str], funds: int, *, keys: str, ledger: str = ""
) -> None:
    """Open accounts and fill each, out of one that may go below zero; *keys* begins the keys of that."""
    await client.open_accounts([world], CURRENCY)
    await client.open_accounts(accounts, CURRENCY, floor=0, size=ITEMS_MAX)
    for start in range(0, len(accounts), ITEMS_MAX):
        some = dict(enumerate(accounts[start : start + ITEMS_MAX], start))
        items = [(f"{keys}{number}", body_of(f"{keys}{number}", (world, name), funds)) for number, name in some.items()]
        numbers = recorder.invoke_bulk(items, "prepare", BULK, atomic=False, ledger=ledger)
        sent = {"transfers": [{"key": key, **json.loads(body)} for key, body in items]}
        answer = await client.call("POST", BULK, sent, items=list(some.values()))
        recorder.answered_bulk(numbers, Heard.of(answer.status, answer.body.decode()))


async def record_books(client: Client, recorder: Recorder, prefix: str, ledger: str = "") -> None:
    """Write down all accounts whose ids begin with the prefix, their statements and what became of holds."""
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
        # Whoever records a history puts the key there.
        key = entry["reference"] or ""
        recorder.write({"event": "entry", "ledger": ledger, "account": account_id, "key": key, **fields})
    for row in rows:
        texts = {name: row[name] or "" for name in ("kind", "parent", "source", "destination", "created_at")}
        named = {"transfer_id": row["id"], "key": row["reference"] or "", "amount": row["amount"]}
        recorder.write({"event": "row", "ledger": ledger, **named, **texts})
