"""What the ledger says in the end, asked over HTTP and written into a history."""

from urllib.parse import quote

from loadtests.client import Client, ClientError
from loadtests.history.recorder import Recorder

# Times the books are read until nothing has moved meanwhile. Requests that nobody waits for any more may still run.
READINGS_MAX = 5


async def record_books(client: Client, recorder: Recorder, prefix: str, ledger: str = "") -> int:
    """
    Write down all accounts whose ids begin with the prefix, and their statements; return the number of accounts.

    The key of a transfer is what its `reference` says: clients that record a history put it there.

    Raises:
        ClientError: The books could not be read, or moved on during READINGS_MAX readings.
    """
    for _ in range(READINGS_MAX):
        accounts = [account async for account in client.pages("/v1/accounts", prefix=prefix)]
        entries = [
            (account["id"], entry)
            for account in accounts
            async for entry in client.pages(f"/v1/accounts/{quote(account['id'], safe='')}/entries")
        ]
        again = [(a["id"], a["version"]) async for a in client.pages("/v1/accounts", prefix=prefix)]
        if again == [(a["id"], a["version"]) for a in accounts]:
            break
    else:
        raise ClientError(f"the accounts {prefix}* moved on during {READINGS_MAX} readings of the books")
    for account in accounts:
        fields = {name: account[name] for name in ("id", "currency", "balance", "version", "floor")}
        recorder.write({"event": "account", "ledger": ledger, **fields})
    for account_id, entry in entries:
        fields = {name: entry[name] for name in ("transfer_id", "amount", "counterparty", "balance", "version")}
        key = entry["reference"] or ""
        recorder.write({"event": "entry", "ledger": ledger, "account": account_id, "key": key, **fields})
    return len(accounts)
