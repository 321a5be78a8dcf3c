"""Stored API keys: makes, reads, changes, rotates and revokes them, for the command line and for administrators."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from server.gate.keys import Defaults
from server.gate.limits import Limit
from server.gate.tokens import NewKey, new_key, new_token, read_key_name
from server.ledger.limits import TIME_MAX
from server.ledger.prefixes import Prefixes
from server.store.errors import OutcomeUnknownError, StoreError
from server.store.postgres import Database

# The fields that a change may name.
CHANGES: Final = frozenset({"rate", "burst", "concurrency", "description", "expires_at", "accounts"})
# The limit of keys without one, unless the settings give another.
SERVICE_LIMIT: Final = Defaults().key
# Attempts at a change while others change the same key: more than two administrators at once are unlikely.
CHANGE_ATTEMPTS_MAX: Final = 5
# Seconds for which a replaced token works beside the new one. By default a day, to bring the new one to all programs;
# at most a week, so that forgotten tokens end.
OVERLAP_SECONDS_DEFAULT: Final = 86_400
OVERLAP_SECONDS_MAX: Final = 604_800
# Replaced tokens that work at once: a caller that has lost a new token rotates again, and that must not end the token
# in use.
FORMER_MAX: Final = 4
# Keys of a ledger that are not revoked: as many as a worker remembers. Each that was used has a bucket in Redis, which
# is never evicted; without a limit one ledger could fill the Redis of all.
KEYS_OF_LEDGER_MAX: Final = 10_000
# Keys that a command reads in one page.
PAGE_KEYS: Final = 1_000
# Sorts after every key id of the same instant in a list.
ID_MAX: Final = "g"


class KeyLimit(NamedTuple):
    """The limits of a key; None takes the service's default."""

    # Requests in each window, and the window in seconds.
    quota: int | None = None
    window: int | None = None
    # Requests at once, and requests running at once in one worker.
    burst: int | None = None
    concurrency: int | None = None

    def check(self, default: Limit = SERVICE_LIMIT) -> None:
        """
        Check that the burst can be counted.

        Args:
            default: The limit of keys without a rate.

        Raises:
            ValueError: The burst is too large for so slow a rate.
        """
        if (
            self.burst is not None
            and not Limit(self.quota or default.quota, self.window or default.window, self.burst).exact
        ):
            raise ValueError("the burst is too large for so slow a rate")

    def changed(self, named: Collection[str], to: "KeyLimit") -> "KeyLimit":
        """Return these limits with the *named* fields replaced by those of *to*."""
        rate, burst, concurrency = (to if name in named else self for name in ("rate", "burst", "concurrency"))
        return KeyLimit(rate.quota, rate.window, burst.burst, concurrency.concurrency)

    def exceeds(self, other: "KeyLimit", defaults: Defaults) -> bool:
        """Return whether these limits allow more than the *other* ones in any respect."""
        new, old = (defaults.limit(limit.quota, limit.window, limit.burst) for limit in (self, other))
        return (
            new.quota * old.window > old.quota * new.window
            or new.burst > old.burst
            or (self.concurrency or defaults.concurrency) > (other.concurrency or defaults.concurrency)
        )


class KeyRequest(NamedTuple):
    """A request for a new key. None takes the service's default limits, no end, and the whole ledger."""

    role: str
    limit: KeyLimit = KeyLimit()
    description: str | None = None
    expires_at: datetime | None = None
    accounts: Prefixes | None = None


class KeyChange(NamedTuple):
    """A change of a key: only the fields in *named*, which are from CHANGES, are changed."""

    named: Collection[str]
    limit: KeyLimit = KeyLimit()
    description: str | None = None
    expires_at: datetime | None = None
    accounts: Prefixes | None = None


class StoredKey(NamedTuple):
    """A key without its secrets. The fields are in the order of `api_key_columns`."""

    id: str
    role: str
    description: str | None
    accounts: Sequence[str] | None
    quota: int | None
    window: int | None
    burst: int | None
    concurrency: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    # The minute of the last use.
    last_used_at: datetime | None
    # When the last replaced token stops working; None if none works.
    former_until: datetime | None

    @property
    def limit(self) -> KeyLimit:
        """The limits of the key."""
        return KeyLimit(self.quota, self.window, self.burst, self.concurrency)


class KeyNotFoundError(Exception):
    """The ledger has no such key, or the caller may not know of it."""


class KeyEndedError(Exception):
    """The key is revoked, or has expired."""


class KeysFullError(Exception):
    """The ledger has as many keys that are not revoked as it may."""

    def __init__(self) -> None:
        most = f"{KEYS_OF_LEDGER_MAX:,}"
        super().__init__(f"the ledger has as many API keys as it may, {most}: revoke those that are no longer needed")


class KeyOutcomeUnknownError(OutcomeUnknownError):
    """
    It is unknown whether a key was made, and nobody has its token.

    Args:
        key_id: The public id of the key.
    """

    def __init__(self, key_id: str) -> None:
        super().__init__("Postgres was lost while it made the key, and nobody knows whether it did")
        self.key_id = key_id


async def ledger_id(database: Database, name: str) -> int | None:
    """Return the id of the ledger called *name*, or None."""
    rows = await database.read("ledger_by_name", name)
    return int(rows[0]["id"]) if rows else None


async def ledger_name(database: Database, number: int) -> str:
    """Return the name of a ledger."""
    return str((await database.read("ledger_name", number))[0]["name"])


async def key_ledger(database: Database, name: str | None, number: int | None) -> int | None:
    """Return the number of the ledger with this name, number or both; None if the name is unknown or they differ."""
    found = number if name is None else await ledger_id(database, name)
    return found if number in (None, found) else None


async def create_key(
    database: Database,
    ledger: str,
    role: str,
    limit: KeyLimit | None = None,
    *,
    description: str | None = None,
    expires_at: datetime | None = None,
    accounts: Prefixes | None = None,
) -> str:
    """
    Make a key of a ledger, and the ledger if it does not exist; return the token, which is stored nowhere.

    Args:
        limit: The limits of the key; None takes the service's defaults.

    Raises:
        ConstraintError: The name of the ledger is not valid.
        OutcomeUnknownError: A key may have been made, and could not be revoked; the message says which.
        StoreError: No key was made, or it is revoked; among others, the ledger has too many keys.
    """
    await database.write("ledger_create", ledger)
    found = await ledger_id(database, ledger)
    assert found is not None, "ledgers are never removed"
    asked = KeyRequest(role, limit or KeyLimit(), description, expires_at, accounts)
    try:
        return (await make_key(database, found, asked))[1]
    except KeyOutcomeUnknownError as error:
        hint = f"when it is back, run `tallystick keys revoke --ledger {ledger} {error.key_id}`"
        raise OutcomeUnknownError(f"{error}: {hint}") from error
    except KeysFullError as error:
        raise StoreError(str(error)) from error


async def make_key(database: Database, of_ledger: int, asked: KeyRequest) -> tuple[StoredKey, str]:
    """
    Make a key of a ledger, and return it with its token.

    After a lost connection the same key is sent again, so the returned token is that of the key that exists. If the
    outcome stays unknown, the key is revoked, so that no key lives whose token nobody has.

    Raises:
        KeysFullError: The ledger has too many keys.
        KeyOutcomeUnknownError: A key may have been made, and could not be revoked.
        StoreError: No key was made, or it is revoked.
    """
    key = new_key(of_ledger)
    others = (*asked.limit, asked.description, asked.expires_at, _texts(asked.accounts), KEYS_OF_LEDGER_MAX)
    try:
        rows = await database.write("api_key_create", of_ledger, key.id, key.digest, asked.role, *others)
    except OutcomeUnknownError as error:
        await _withdraw(database, of_ledger, key, asked.role)
        raise StoreError("Postgres was lost while it made the key, which is revoked in any case: try again") from error
    if not rows:
        raise KeysFullError
    return _stored(rows), key.token


async def revoke_whole_key(database: Database, token: str) -> None:
    """Revoke a key that was just made and could not be shown."""
    of_ledger, key_id = read_key_name(token)
    assert of_ledger is not None, "a whole key contains its ledger"
    await revoke_key(database, of_ledger, key_id)


async def _withdraw(database: Database, of_ledger: int, key: NewKey, role: str) -> None:
    """
    Revoke a key that may or may not have been made, so that it never opens anything.

    Raises:
        KeyOutcomeUnknownError: The key could not be revoked.
    """
    try:
        await database.write("api_key_withdraw", of_ledger, key.id, key.digest, role)
    except StoreError as error:
        raise KeyOutcomeUnknownError(key.id) from error


async def read_page(
    database: Database,
    of_ledger: int,
    limit: int,
    *,
    before: tuple[datetime, str] | None = None,
    within: Prefixes | None = None,
) -> list[StoredKey]:
    """
    Return up to *limit* keys of a ledger, newest first, including revoked ones.

    Args:
        before: The instant and the id of the last key of the page before.

        within: Return only keys that are narrowed to these accounts or to some of them.
    """
    at, key_id = before or (TIME_MAX, ID_MAX)
    rows = await database.read("api_key_page", of_ledger, limit, _texts(within), at, key_id)
    return [StoredKey(*row.values()) for row in rows]


async def list_keys(database: Database, ledger: str | None) -> list[tuple[str, StoredKey]] | None:
    """Return the keys of one ledger or of all, each with its ledger's name; None if there is no such ledger."""
    ledgers = [row for row in await database.read("ledger_list") if ledger in (None, row["name"])]
    if ledger is not None and not ledgers:
        return None
    return [(row["name"], key) for row in ledgers for key in await _all_keys(database, row["id"])]


async def _all_keys(database: Database, of_ledger: int) -> list[StoredKey]:
    found: list[StoredKey] = []
    while True:
        before = (found[-1].created_at, found[-1].id) if found else None
        page = await read_page(database, of_ledger, PAGE_KEYS, before=before)
        found += page
        if len(page) < PAGE_KEYS:
            return found


async def read_key(database: Database, of_ledger: int, key_id: str, within: Prefixes | None = None) -> StoredKey:
    """
    Return a key.

    Raises:
        KeyNotFoundError: There is no such key.
    """
    return _stored(await database.read("api_key_read", of_ledger, key_id, _texts(within)))


async def change_key(
    database: Database,
    of_ledger: int,
    key_id: str,
    change: KeyChange,
    *,
    within: Prefixes | None = None,
    default: Limit = SERVICE_LIMIT,
    check: Callable[[StoredKey], None] | None = None,
) -> StoredKey:
    """
    Change a key and return it as changed. The change is in force within five seconds.

    Args:
        within: Change only a key that is narrowed to these accounts or to some of them.

        default: The limit of keys without a rate.

        check: Gets the key before it is changed, and raises to prevent the change.

    Raises:
        ValueError: The burst would be too large for the rate.
        KeyNotFoundError: There is no such key.
        KeyEndedError: The key is revoked.
        StoreError: The change failed, or others kept changing the same key.
    """
    named, limit = change.named, change.limit
    values = (*limit, change.description, change.expires_at, _texts(change.accounts))
    for _ in range(CHANGE_ATTEMPTS_MAX):
        key = await read_key(database, of_ledger, key_id, within)
        if key.revoked_at is not None:
            raise KeyEndedError
        if check is not None:
            check(key)
        if not {"rate", "burst"}.isdisjoint(named):
            key.limit.changed(named, limit).check(default)
        seen = (key.quota, key.window, key.burst)
        arguments = (of_ledger, key_id, _texts(within), list(named), *values, *seen)
        if rows := await database.write("api_key_change", *arguments):
            return _stored(rows)
    raise StoreError("others are changing the key at this moment: try again")


async def rotate_key(
    database: Database, of_ledger: int, key_id: str, overlap_seconds: int, *, within: Prefixes | None = None
) -> tuple[StoredKey, str]:
    """
    Give a key a new token, and return both. Its older tokens work for *overlap_seconds* from now, and no longer.

    Raises:
        KeyNotFoundError: There is no such key.
        KeyEndedError: The key is revoked, or has expired.
        OutcomeUnknownError: The rotation may have been done. The older tokens still work for the overlap.
    """
    new = new_token(of_ledger, key_id)
    rows = await database.write(
        "api_key_rotate", of_ledger, key_id, _texts(within), new.digest, overlap_seconds, FORMER_MAX
    )
    if not rows:
        await read_key(database, of_ledger, key_id, within)
        raise KeyEndedError
    return _stored(rows), new.token


async def revoke_key(database: Database, of_ledger: int, key_id: str, *, within: Prefixes | None = None) -> StoredKey:
    """
    Revoke a key for ever and return it. The revocation is in force within five seconds.

    Raises:
        KeyNotFoundError: There is no such key.
    """
    return _stored(await database.write("api_key_revoke", of_ledger, key_id, _texts(within)))


def _stored(rows: "Sequence[asyncpg.Record]") -> StoredKey:
    if not rows:
        raise KeyNotFoundError
    return StoredKey(*rows[0].values())


def _texts(accounts: Prefixes | None) -> list[str] | None:
    return None if accounts is None else list(accounts.texts)
