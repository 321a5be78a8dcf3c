"""Keys and ledgers, from the command line."""

from datetime import datetime
from typing import NamedTuple

import asyncpg

from server.gate.keys import new_key
from server.gate.limits import shown_rate
from server.store.postgres import Database


class KeyLimit(NamedTuple):
    """What a key may ask for; None takes the service's default."""

    # Requests every window, and the window in seconds.
    quota: int | None = None
    window: int | None = None
    # Requests at once, and requests running at once in one worker.
    burst: int | None = None
    concurrency: int | None = None


class ListedKey(NamedTuple):
    """A key, as far as anybody may know it."""

    ledger: str
    id: str
    role: str
    created_at: datetime
    revoked_at: datetime | None
    limit: KeyLimit


async def ledger_id(database: Database, name: str) -> int | None:
    """Return the id of the ledger called *name*, or None."""
    rows = await database.read("ledger_by_name", name)
    return int(rows[0]["id"]) if rows else None


async def create_key(database: Database, ledger: str, role: str, limit: KeyLimit | None = None) -> str:
    """
    Make a key of a ledger, and the ledger when it does not exist; return the key, which is kept nowhere.

    Args:
        limit: Of the key; without one it has the service's defaults.

    Raises:
        asyncpg.CheckViolationError: The ledger's name is not one.
    """
    await database.write("ledger_create", ledger)
    found = await ledger_id(database, ledger)
    assert found is not None, "ledgers are never removed"
    key = new_key(found)
    await database.write("api_key_create", found, key.id, key.digest, role, *(limit or KeyLimit()))
    return key.token


async def list_keys(database: Database, ledger: str | None) -> list[ListedKey] | None:
    """Return the keys of one ledger or of all; None when there is no such ledger."""
    ledgers = [row for row in await database.read("ledger_list") if ledger in (None, row["name"])]
    if ledger is not None and not ledgers:
        return None
    return [
        ListedKey(row["name"], key["id"], key["role"], key["created_at"], key["revoked_at"], _limit(key))
        for row in ledgers
        for key in await database.read("api_key_list", row["id"])
    ]


def _limit(row: "asyncpg.Record") -> KeyLimit:
    return KeyLimit(row["rate_quota"], row["rate_window"], row["burst"], row["concurrency"])


def shown_limit(limit: KeyLimit) -> tuple[str, str, str]:
    """Return rate, burst and concurrency as a person reads them; `-` takes the service's default."""
    rate = "-" if limit.quota is None or limit.window is None else shown_rate(limit.quota, limit.window)
    return rate, str(limit.burst or "-"), str(limit.concurrency or "-")


async def limit_key(database: Database, ledger: str, key_id: str, limit: KeyLimit) -> bool:
    """Change the limits of a key, within five seconds; False when the ledger has none of that id."""
    found = await ledger_id(database, ledger)
    return found is not None and bool(await database.write("api_key_limit", found, key_id, *limit))


async def revoke_key(database: Database, ledger: str, key_id: str) -> bool:
    """Revoke a key; False when the ledger has none of that id."""
    found = await ledger_id(database, ledger)
    return found is not None and bool(await database.write("api_key_revoke", found, key_id))
