"""API keys and ledgers for the command line."""

import re
from collections.abc import Collection
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from server.gate.keys import Defaults, NewKey, new_key, read_key_name
from server.gate.limits import Limit, shown_rate
from server.store.errors import OutcomeUnknownError, StoreError
from server.store.postgres import Database

# As the database has it.
LEDGER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}")
# Limits of a key.
LIMITS: Final = frozenset({"rate", "burst", "concurrency"})
# Of keys without one, unless the settings say otherwise.
SERVICE_LIMIT: Final = Defaults().key
# Attempts at a change while others change the same key; more than two operators at once are unlikely.
LIMIT_ATTEMPTS_MAX: Final = 5


class KeyLimit(NamedTuple):
    """What a key may ask for; None takes the service's default."""

    # Requests every window, and the window in seconds.
    quota: int | None = None
    window: int | None = None
    # Requests at once, and requests running at once in one worker.
    burst: int | None = None
    concurrency: int | None = None

    def check(self, default: Limit = SERVICE_LIMIT) -> None:
        """
        Return if the burst can be counted.

        Args:
            default: Of keys without a rate of their own.

        Raises:
            ValueError: It is too large for so slow a rate.
        """
        if (
            self.burst is not None
            and not Limit(self.quota or default.quota, self.window or default.window, self.burst).exact
        ):
            raise ValueError("the burst is too large for so slow a rate")


class ListedKey(NamedTuple):
    """A key without its secret."""

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


async def key_ledger(database: Database, name: str | None, number: int | None) -> int | None:
    """Return the number of a ledger given by name, by number or by both; None where there is none or they differ."""
    found = number if name is None else await ledger_id(database, name)
    return found if number in (None, found) else None


async def create_key(database: Database, ledger: str, role: str, limit: KeyLimit | None = None) -> str:
    """
    Make a key of a ledger, and the ledger when it does not exist; return the key, which is kept nowhere.

    After a lost connection the same key is sent again, so the key that is returned is the one that exists.

    Args:
        limit: Of the key; without one it has the service's defaults.

    Raises:
        ConstraintError: The ledger's name is not one.
        OutcomeUnknownError: One may have been made, and could not be revoked; the message says which.
        StoreError: None was made, or it is revoked.
    """
    await database.write("ledger_create", ledger)
    found = await ledger_id(database, ledger)
    assert found is not None, "ledgers are never removed"
    key = new_key(found)
    try:
        await database.write("api_key_create", found, key.id, key.digest, role, *(limit or KeyLimit()))
    except OutcomeUnknownError as error:
        await _withdraw(database, ledger, found, key, role)
        raise StoreError("Postgres was lost while it made the key, which is revoked in any case: try again") from error
    return key.token


async def revoke_whole_key(database: Database, token: str) -> None:
    """Revoke a key that was just made and could not be shown."""
    of_ledger, key_id = read_key_name(token)
    assert of_ledger is not None, "a whole key contains its ledger"
    await revoke_key(database, of_ledger, key_id)


async def _withdraw(database: Database, ledger: str, of_ledger: int, key: NewKey, role: str) -> None:
    """
    Revoke a key that may or may not have been made, so that it never opens anything.

    Raises:
        OutcomeUnknownError: That could not be done.
    """
    try:
        await database.write("api_key_withdraw", of_ledger, key.id, key.digest, role)
    except StoreError as error:
        raise OutcomeUnknownError(
            "Postgres was lost while it made the key, and nobody knows whether it did: when it is back, run "
            f"`tallystick keys revoke --ledger {ledger} {key.id}`"
        ) from error


async def list_keys(database: Database, ledger: str | None) -> list[ListedKey] | None:
    """Return the keys of one ledger or of all; None when there is no such ledger."""
    ledgers = [row for row in await database.read("ledger_list") if ledger in (None, row["name"])]
    if ledger is not None and not ledgers:
        return None
    return [_listed(row["name"], key) for row in ledgers for key in await database.read("api_key_list", row["id"])]


def _listed(ledger: str, row: "asyncpg.Record") -> ListedKey:
    return ListedKey(ledger, row["id"], row["role"], row["created_at"], row["revoked_at"], _limit(row))


def _limit(row: "asyncpg.Record") -> KeyLimit:
    return KeyLimit(row["rate_quota"], row["rate_window"], row["burst"], row["concurrency"])


def shown_limit(limit: KeyLimit) -> tuple[str, str, str]:
    """Return rate, burst and concurrency as a person reads them; `-` takes the service's default."""
    rate = "-" if limit.quota is None or limit.window is None else shown_rate(limit.quota, limit.window)
    return rate, str(limit.burst or "-"), str(limit.concurrency or "-")


def shown_key(key: ListedKey) -> str:
    """Return the line of a key."""
    state = f"revoked {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}" if key.revoked_at else "active"
    made = f"{key.created_at:%Y-%m-%dT%H:%M:%SZ}"
    return "\t".join((key.ledger, key.id, key.role, made, *shown_limit(key.limit), state))


async def limit_key(
    database: Database,
    ledger: int | str,
    key_id: str,
    limit: KeyLimit,
    *,
    named: Collection[str] = LIMITS,
    default: Limit = SERVICE_LIMIT,
) -> ListedKey | None:
    """
    Change limits of a key, within five seconds, and return it as it is then; None when the ledger has none of that id.

    Args:
        ledger: Its number or its name.

        named: Which of LIMITS are changed; the others stay.

        default: Of keys without a rate of their own.

    Raises:
        ValueError: The burst would be too large for the rate.
        StoreError: It could not be done, or others change the same key again and again.
    """
    found = ledger if isinstance(ledger, int) else await ledger_id(database, ledger)
    for _ in range(LIMIT_ATTEMPTS_MAX):
        rows = await database.read("api_key_read", found, key_id)
        if not rows:
            return None
        key = _listed(rows[0]["ledger"], rows[0])
        seen = key.limit
        if not {"rate", "burst"}.isdisjoint(named):
            rate = limit if "rate" in named else seen
            KeyLimit(rate.quota, rate.window, (limit if "burst" in named else seen).burst).check(default)
        changed = await database.write(
            "api_key_limit", found, key_id, list(named), *limit, seen.quota, seen.window, seen.burst
        )
        if changed:
            return key._replace(limit=_limit(changed[0]))
    raise StoreError("others are changing the key's limits at this moment: try again")


async def revoke_key(database: Database, ledger: int | str, key_id: str) -> bool:
    """Revoke a key of a ledger, by its number or its name; False when it has none of that id."""
    found = ledger if isinstance(ledger, int) else await ledger_id(database, ledger)
    return found is not None and bool(await database.write("api_key_revoke", found, key_id))
