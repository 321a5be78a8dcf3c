"""The books of a run: how they are opened over HTTP, and what they say in the end; both go into its history."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec

from loadtests.client import Client
from loadtests.errors import NotRunError
from loadtests.history.model import Account, Entry, Row, noted
from loadtests.history.recorder import Heard, Recorder
from loadtests.payers import BULK, CURRENCY, body_of
from tallystick_client import AccountItem, AccountResult, AsyncTallystick, Transfer, TransferItem, TransferResult
from tallystick_client.request import instant

# Seconds of a call with all its repeats: longer than a failover of the database, short enough to notice.
CALL_SECONDS_MAX = 90.0
# Accounts or transfers of one request: an item costs a token, and more at once than the bucket of a key holds are never
# let through.
ITEMS_MAX = 20
# Times the books are read until nothing has moved meanwhile. Requests that nobody waits for any more may still run.
READINGS_MAX = 12
# Seconds between two readings: the last holds expire meanwhile, each of which moves its accounts on.
PAUSE_SECONDS = 1.0


@asynccontextmanager
async def patient(url: str, key: str) -> AsyncIterator[AsyncTallystick]:
    """Yield a client for what is not measured. Nobody waits for a server that is not there."""
    async with Client(url, key) as client:
        heard = await client.ask("GET", "/livez")
    if not heard.status:
        raise NotRunError(f"{url}: {heard.response}")
    async with AsyncTallystick(url, key, deadline_seconds=CALL_SECONDS_MAX) as ledger:
        yield ledger


async def open_accounts(
    client: AsyncTallystick, names: Sequence[str], currency: str = CURRENCY, floor: int | None = None
) -> None:
    """Open accounts; one that is already open so stays as it is."""
    for start in range(0, len(names), ITEMS_MAX):
        some = names[start : start + ITEMS_MAX]
        _check(some, await client.accounts.create_many(AccountItem(name, currency, floor) for name in some))


async def open_books(
    client: AsyncTallystick, recorder: Recorder, world: str, accounts: Sequence[str], funds: int, *, ledger: str = ""
) -> None:
    """Open accounts and fill each, out of one that may go below zero and whose name begins the keys of that."""
    await open_accounts(client, [world])
    await open_accounts(client, accounts, floor=0)
    for start in range(0, len(accounts), ITEMS_MAX):
        some = {f"{world}-{number}": name for number, name in enumerate(accounts[start : start + ITEMS_MAX], start)}
        items = {key: body_of(key, (world, name), funds) for key, name in some.items()}
        numbers = recorder.invoke_bulk(list(items.items()), "prepare", BULK, atomic=False, ledger=ledger)
        posted = await client.transfers.create_many(
            TransferItem(**json.loads(body), key=key) for key, body in items.items()
        )
        _check(some.values(), posted)
        for number, result in zip(numbers, posted, strict=True):
            if result.transfer is not None:
                recorder.answered(number, Heard.of(201, json.dumps(_told(result.transfer)), result.replayed))


async def record_books(client: AsyncTallystick, recorder: Recorder, prefix: str, ledger: str = "") -> None:
    """Write down all accounts whose ids begin with the prefix, their statements and what became of holds."""
    for _ in range(READINGS_MAX):
        accounts = [account async for account in client.accounts.list(prefix=prefix)]
        entries = [(account.id, entry) for account in accounts async for entry in client.accounts.entries(account.id)]
        # Each once, by its source; a transfer has its entries.
        rows = [
            row
            for account in accounts
            async for row in client.transfers.list(account=account.id)
            if row.source == account.id and row.kind != "transfer"
        ]
        again = [(account.id, account.version) async for account in client.accounts.list(prefix=prefix)]
        if again == [(account.id, account.version) for account in accounts]:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    else:
        raise NotRunError(f"the accounts {prefix}* moved on during {READINGS_MAX} readings of the books")
    for a in accounts:
        recorder.write(noted(Account(ledger, a.id, a.currency, a.balance, a.version, a.floor)))
    # Whoever records a history puts the key into the reference.
    for account, e in entries:
        moved = (e.amount, e.counterparty or "")
        recorder.write(noted(Entry(ledger, account, e.transfer_id, e.reference or "", *moved, e.balance, e.version)))
    for t in rows:
        key, parent, *sides = (text or "" for text in (t.reference, t.parent, t.source, t.destination))
        created_at = instant(t.created_at)
        recorder.write(noted(Row(ledger, t.id, t.kind, key, parent, sides[0], sides[1], t.amount or 0, created_at)))


def _check(names: Iterable[str], results: Iterable[AccountResult | TransferResult]) -> None:
    for name, result in zip(names, results, strict=True):
        if result.problem is not None:
            raise NotRunError(f"{name} was answered {result.status} {result.problem.code}: {result.problem.detail}")


def _told(transfer: Transfer) -> dict[str, object]:
    """Return what was answered of a transfer, members that are null left out."""
    told = {name: value for name, value in msgspec.to_builtins(transfer).items() if value is not None}
    return told | {"effective_at": instant(transfer.effective_at), "created_at": instant(transfer.created_at)}
