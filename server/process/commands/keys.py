"""Keys and ledgers, from the command line."""

from datetime import datetime
from typing import NamedTuple

from server.gate.keys import new_key
from server.store.postgres import Database


class ListedKey(NamedTuple):
    """A key, as far as anybody may know it."""

    ledger: str
    id: str
    role: str
    created_at: datetime
    revoked_at: datetime | None


async def ledger_id(database: Database, name: str) -> int | None:
    """Return the id of the ledger called *name*, or None."""
    rows = await database.read("ledger_by_name", name)
    return int(rows[0]["id"]) if rows else None


async def create_key(database: Database, ledger: str, role: str) -> str:
    """
    Make a key of a ledger, and the ledger when it does not exist; return the key, which is kept nowhere.

    Raises:
        asyncpg.CheckViolationError: The ledger's name is not one.
    """
    await database.write("ledger_create", ledger)
    found = await ledger_id(database, ledger)
    assert found is not None, "ledgers are never removed"
    key = new_key(found)
    await database.write("api_key_create", found, key.id, key.digest, role)
    return key.token


async def list_keys(database: Database, ledger: str | None) -> list[ListedKey] | None:
    """Return the keys of one ledger or of all; None when there is no such ledger."""
    ledgers = [row for row in await database.read("ledger_list") if ledger in (None, row["name"])]
    if ledger is not None and not ledgers:
        return None
    return [
        ListedKey(row["name"], key["id"], key["role"], key["created_at"], key["revoked_at"])
        for row in ledgers
        for key in await database.read("api_key_list", row["id"])
    ]


async def revoke_key(database: Database, ledger: str, key_id: str) -> bool:
    """Revoke a key; False when the ledger has none of that id."""
    found = await ledger_id(database, ledger)
    return found is not None and bool(await database.write("api_key_revoke", found, key_id))
