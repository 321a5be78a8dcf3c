"""API keys as they are kept: made, read, changed, rotated and revoked, for the command line and for administrators."""

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

# What a change may name.
CHANGES: Final = frozenset({"rate", "burst", "concurrency", "description", "expires_at", "accounts"})
# Of keys without one, unless the settings say otherwise.
SERVICE_LIMIT: Final = Defaults().key
# Attempts at a change while others change the same key; more than two administrators at once are unlikely.
CHANGE_ATTEMPTS_MAX: Final = 5
# Seconds for which a token works beside the one that has replaced it: a day to bring the new one to all programs unless
# something else is asked for, and a week at most, after which what is forgotten ends.
OVERLAP_SECONDS_DEFAULT: Final = 86_400
OVERLAP_SECONDS_MAX: Final = 604_800
# Replaced tokens that work at once: who has lost a new one asks again, and the one in use must not end for that.
FORMER_MAX: Final = 4
# Keys that a command reads at a time.
PAGE_KEYS: Final = 1_000
# Behind every key of an instant, in the order of lists.
ID_MAX: Final = "g"


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

    def changed(self, named: Collection[str], to: "KeyLimit") -> "KeyLimit":
        """Return this with what is *named* as *to* has it."""
        rate, burst, concurrency = (to if name in named else self for name in ("rate", "burst", "concurrency"))
        return KeyLimit(rate.quota, rate.window, burst.burst, concurrency.concurrency)

    def exceeds(self, other: "KeyLimit", defaults: Defaults) -> bool:
        """Return whether it lets a key do in any way more than the *other* does."""
        new, old = (defaults.limit(limit.quota, limit.window, limit.burst) for limit in (self, other))
        return (
            new.quota * old.window > old.quota * new.window
            or new.burst > old.burst
            or (self.concurrency or defaults.concurrency) > (other.concurrency or defaults.concurrency)
        )


class KeyRequest(NamedTuple):
    """What a key is to be; None takes the service's default of a limit, no end, and the whole ledger."""

    role: str
    limit: KeyLimit = KeyLimit()
    description: str | None = None
    expires_at: datetime | None = None
    accounts: Prefixes | None = None


class KeyChange(NamedTuple):
    """What to change of a key: what is *named*, of CHANGES."""

    named: Collection[str]
    limit: KeyLimit = KeyLimit()
    description: str | None = None
    expires_at: datetime | None = None
    accounts: Prefixes | None = None


class StoredKey(NamedTuple):
    """A key without its secrets, its columns in the order of `api_key_columns`."""

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
    # The minute in which it was used last.
    last_used_at: datetime | None
    # When the last of the tokens that were replaced stops to work; None where none works.
    former_until: datetime | None

    @property
    def limit(self) -> KeyLimit:
        """What it may ask for."""
        return KeyLimit(self.quota, self.window, self.burst, self.concurrency)


class KeyNotFoundError(Exception):
    """The ledger has no such key, or none that the one who asks may know of."""


class KeyEndedError(Exception):
    """The key is revoked, or has expired."""


class KeyOutcomeUnknownError(OutcomeUnknownError):
    """
    Nobody knows whether a key was made, and nobody has its token.

    Args:
        key_id: Its public id.
    """

    def __init__(self, key_id: str) -> None:
        super().__init__("Postgres was lost while it made the key, and nobody knows whether it did")
        self.key_id = key_id


async def ledger_id(database: Database, name: str) -> int | None:
    """Return the id of the ledger called *name*, or None."""
    rows = await database.read("ledger_by_name", name)
    return int(rows[0]["id"]) if rows else None


async def ledger_name(database: Database, number: int) -> str:
    """Return what a ledger is called."""
    return str((await database.read("ledger_name", number))[0]["name"])


async def key_ledger(database: Database, name: str | None, number: int | None) -> int | None:
    """Return the number of a ledger given by name, by number or by both; None where there is none or they differ."""
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
    Make a key of a ledger, and the ledger when it does not exist; return the token, which is kept nowhere.

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
    asked = KeyRequest(role, limit or KeyLimit(), description, expires_at, accounts)
    try:
        return (await make_key(database, found, asked))[1]
    except KeyOutcomeUnknownError as error:
        hint = f"when it is back, run `tallystick keys revoke --ledger {ledger} {error.key_id}`"
        raise OutcomeUnknownError(f"{error}: {hint}") from error


async def make_key(database: Database, of_ledger: int, asked: KeyRequest) -> tuple[StoredKey, str]:
    """
    Make a key of a ledger, and return it with its token.

    After a lost connection the same key is sent again, so the token that is returned is that of the key that exists.

    Raises:
        KeyOutcomeUnknownError: One may have been made, and could not be revoked.
        StoreError: None was made, or it is revoked.
    """
    key = new_key(of_ledger)
    others = (*asked.limit, asked.description, asked.expires_at, _texts(asked.accounts))
    try:
        rows = await database.write("api_key_create", of_ledger, key.id, key.digest, asked.role, *others)
    except OutcomeUnknownError as error:
        await _withdraw(database, of_ledger, key, asked.role)
        raise StoreError("Postgres was lost while it made the key, which is revoked in any case: try again") from error
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
        KeyOutcomeUnknownError: That could not be done.
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
    Return up to *limit* keys of a ledger, newest first, revoked ones too.

    Args:
        before: Instant and id of the last one already seen.

        within: Only those that are narrowed to these accounts or to some of them.
    """
    at, key_id = before or (TIME_MAX, ID_MAX)
    rows = await database.read("api_key_page", of_ledger, limit, _texts(within), at, key_id)
    return [StoredKey(*row.values()) for row in rows]


async def list_keys(database: Database, ledger: str | None) -> list[tuple[str, StoredKey]] | None:
    """Return the keys of one ledger or of all, each with its ledger's name; None when there is no such ledger."""
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
        KeyNotFoundError: There is none.
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
    Change a key, in force within five seconds, and return it as it is then.

    Args:
        within: Only a key that is narrowed to these accounts or to some of them.

        default: Of keys without a rate of their own.

        check: Is shown the key before it is changed, and raises to keep it as it is.

    Raises:
        ValueError: The burst would be too large for the rate.
        KeyNotFoundError: There is none.
        KeyEndedError: It is revoked.
        StoreError: It could not be done, or others change the same key again and again.
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
    Give a key a new token, and return both. All others work for *overlap_seconds* from now on, and no longer.

    Raises:
        KeyNotFoundError: There is none.
        KeyEndedError: It is revoked, or has expired.
        OutcomeUnknownError: It may have been done: those that worked still do, for the overlap.
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
    Revoke a key, in force within five seconds, for ever, and return it.

    Raises:
        KeyNotFoundError: There is none.
    """
    return _stored(await database.write("api_key_revoke", of_ledger, key_id, _texts(within)))


def _stored(rows: "Sequence[asyncpg.Record]") -> StoredKey:
    if not rows:
        raise KeyNotFoundError
    return StoredKey(*rows[0].values())


def _texts(accounts: Prefixes | None) -> list[str] | None:
    return None if accounts is None else list(accounts.texts)
