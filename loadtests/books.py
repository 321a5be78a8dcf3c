"""Opens the books of a run over HTTP and reads them at its end; both go into its history."""

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

# Seconds of a call with all its retries: longer than a failover of the database, short enough to notice.
CALL_SECONDS_MAX = 90.0
# Accounts or transfers of one request. An item costs a token, and a request with more items than the bucket of a key
# holds is never admitted.
ITEMS_MAX = 20
# How often the books are read until nothing moves during a reading. Requests whose callers have left may still run.
READINGS_MAX = 12
# Seconds between two readings. The last holds expire in this time, and each expiry changes its accounts' versions.
PAUSE_SECONDS = 1.0


@asynccontextmanager
async def patient(url: str, key: str) -> AsyncIterator[AsyncTallystick]:
    """Yield a client for requests that are not measured; raise NotRunError at once if no server answers."""
    async with Client(url, key) as client:
        heard = await client.ask("GET", "/livez")
    if not heard.status:
        raise NotRunError(f"{url}: {heard.response}")
    async with AsyncTallystick(url, key, deadline_seconds=CALL_SECONDS_MAX) as ledger:
        yield ledger


async def open_accounts(
    client: AsyncTallystick, names: Sequence[str], currency: str = CURRENCY, floor: int | None = None
) -> None:
    """Open accounts; one that is already open with the same fields stays as it is."""
    for start in range(0, len(names), ITEMS_MAX):
        some = names[start : start + ITEMS_MAX]
        _check(some, await client.accounts.create_many(AccountItem(name, currency, floor) for name in some))


async def open_books(
    client: AsyncTallystick, recorder: Recorder, world: str, accounts: Sequence[str], funds: int, *, ledger: str = ""
) -> None:
    """Open accounts and fund each from one that may go below zero, whose name is the prefix of the funding keys."""
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
    """
    Record all accounts whose ids begin with the prefix, their statements, and their holds with what became of them.
    """
    for _ in range(READINGS_MAX):
        accounts = [account async for account in client.accounts.list(prefix=prefix)]
        entries = [(account.id, entry) for account in accounts async for entry in client.accounts.entries(account.id)]
        # A transfer is listed for both its accounts and is taken once, from its source. A plain transfer has its
        # entries.
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
    # Clients that record a history put the key into the reference.
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
    """Return a transfer's members as they were answered, without those that are null."""
    told = {name: value for name, value in msgspec.to_builtins(transfer).items() if value is not None}
    return told | {"effective_at": instant(transfer.effective_at), "created_at": instant(transfer.created_at)}
