"""The command `keys`: manages API keys of all ledgers directly in the database."""

import argparse
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from server.gate.default_limits import default_limits
from server.gate.key_store import (
    OVERLAP_SECONDS_DEFAULT,
    OVERLAP_SECONDS_MAX,
    KeyChange,
    KeyEndedError,
    KeyLimit,
    KeyNotFoundError,
    StoredKey,
    change_key,
    create_key,
    key_ledger,
    ledger_name,
    list_keys,
    revoke_key,
    revoke_whole_key,
    rotate_key,
)
from server.gate.limits import BURST_MAX, CONCURRENCY_MAX, read_rate, shown_rate
from server.gate.tokens import read_key_name
from server.http.instants import read_instant
from server.ledger.prefixes import read_prefixes
from server.process.commands.exits import UNSEEN_TOKEN, OutputError, check_output, check_room, fail, say, shown_once
from server.process.commands.key_rows import KEYS_OF_LEDGERS, say_key
from server.process.commands.tables import say_listing
from server.process.commands.target import Action
from server.settings import Settings
from server.store.postgres import Database

# The word that removes a key's own limit, expiry, description or accounts.
DEFAULT: Final = "default"


def keys_action(settings: Settings, options: argparse.Namespace) -> Action:
    """
    Return the action that the command line asks for.

    Raises:
        ValueError: An argument is not valid.
    """
    return ACTIONS[options.action](settings, options)


def _create(settings: Settings, options: argparse.Namespace) -> Action:
    if options.ledger is None:
        raise ValueError("name the ledger with --ledger; to ask a server instead, set TALLYSTICK_API_KEY")
    change = _change(options)
    change.limit.check(default_limits(settings).key)
    # Make no key that could not be printed.
    check_output()

    async def act(database: Database) -> int:
        key = await create_key(
            database,
            options.ledger,
            options.role,
            change.limit,
            description=change.description,
            expires_at=change.expires_at,
            accounts=change.accounts,
        )
        try:
            say(key)
        except OutputError as error:
            await revoke_whole_key(database, key)
            raise OutputError(f"{error}; the new key has been revoked") from error
        return 0

    return act


def _limit(settings: Settings, options: argparse.Namespace) -> Action:
    _named(options)
    change = _change(options)
    if not change.named:
        raise ValueError(
            "name what to change: --rate, --burst or --concurrency, --expires, --description or --accounts; the word "
            "default restores the service's limit, or removes the others"
        )
    default = default_limits(settings).key

    async def act(database: Database, of_ledger: int, key_id: str) -> int:
        key = await change_key(database, of_ledger, key_id, change, default=default)
        say_key(KEYS_OF_LEDGERS, _members(await ledger_name(database, of_ledger), key), as_json=options.json)
        return 0

    return _on_key(options, act)


def _rotate(_: Settings, options: argparse.Namespace) -> Action:
    overlap = _number("overlap", options.overlap, 0, OVERLAP_SECONDS_MAX)
    check_room()

    async def act(database: Database, of_ledger: int, key_id: str) -> int:
        seconds = OVERLAP_SECONDS_DEFAULT if overlap is None else overlap
        _, token = await rotate_key(database, of_ledger, key_id, seconds)
        with shown_once(UNSEEN_TOKEN):
            say(token)
        return 0

    return _on_key(options, act)


def _list(_: Settings, options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        listed = await list_keys(database, options.ledger)
        if listed is None:
            return fail(f"there is no ledger {options.ledger}")
        say_listing(KEYS_OF_LEDGERS, (_members(*each) for each in listed), as_json=options.json)
        return 0

    return act


def _revoke(_: Settings, options: argparse.Namespace) -> Action:
    async def act(database: Database, of_ledger: int, key_id: str) -> int:
        await revoke_key(database, of_ledger, key_id)
        return 0

    return _on_key(options, act)


ACTIONS: Final[Mapping[str, Callable[[Settings, argparse.Namespace], Action]]] = {
    "create": _create,
    "limit": _limit,
    "list": _list,
    "rotate": _rotate,
    "revoke": _revoke,
}


def _on_key(options: argparse.Namespace, act: Callable[[Database, int, str], Awaitable[int]]) -> Action:
    """
    Return an action that calls *act* with the key that the command line names.

    Raises:
        ValueError: The text is not a key, or its ledger is missing.
    """
    number, key_id = _named(options)

    async def found(database: Database) -> int:
        of_ledger = await key_ledger(database, options.ledger, number)
        try:
            if of_ledger is None:
                raise KeyNotFoundError
            return await act(database, of_ledger, key_id)
        except KeyNotFoundError:
            place = "the database" if options.ledger is None else f"the ledger {options.ledger}"
            return fail(f"{place} has no key {key_id}")
        except KeyEndedError:
            return fail(f"the key {key_id} is revoked or has expired")
        except ValueError as error:
            return fail(str(error))

    return found


def _named(options: argparse.Namespace) -> tuple[int | None, str]:
    """
    Return the number of the key's ledger, if the whole key was given, and its public id.

    Raises:
        ValueError: The text is not a key, or its ledger is missing.
    """
    number, key_id = read_key_name(options.id)
    if number is None and options.ledger is None:
        raise ValueError("a public id needs --ledger too")
    return number, key_id


def _change(options: argparse.Namespace) -> KeyChange:
    """
    Return the change of a key that the command line asks for, with the names of the changed members.

    Raises:
        ValueError: A value is not valid.
    """
    given = {
        "rate": options.rate,
        "burst": options.burst,
        "concurrency": options.concurrency,
        "description": options.description,
        "expires_at": options.expires,
        "accounts": options.accounts,
    }
    named = {name for name, text in given.items() if text is not None}
    own = {name: None if text == DEFAULT else text for name, text in given.items()}
    quota, window = (None, None) if own["rate"] is None else read_rate(own["rate"])
    burst = _number("burst", own["burst"], 1, BURST_MAX)
    limit = KeyLimit(quota, window, burst, _number("concurrency", own["concurrency"], 1, CONCURRENCY_MAX))
    accounts = None if own["accounts"] is None else read_prefixes(own["accounts"].split(","))
    return KeyChange(named, limit, own["description"], _expiry(own["expires_at"]), accounts)


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = read_instant(text)
    if at <= datetime.now(UTC):
        raise ValueError("the instant of --expires has passed")
    return at


def _number(name: str, text: str | None, least: int, most: int) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise ValueError(f"the {name} must be {least} to {most}")
    return int(text)


def _members(ledger: str, key: StoredKey) -> dict[str, Any]:
    """Return the members of a key under their names in the API, with its ledger."""
    rate = None if key.quota is None or key.window is None else shown_rate(key.quota, key.window)
    return {
        "ledger": ledger,
        "id": key.id,
        "role": key.role,
        "description": key.description,
        "accounts": key.accounts,
        "rate": rate,
        "burst": key.burst,
        "concurrency": key.concurrency,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "previous_tokens_until": key.former_until,
    }
