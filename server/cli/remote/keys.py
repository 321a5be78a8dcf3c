"""The actions of `tallystick keys` on a server: they manage the keys of the ledger of an administrator's key."""

import argparse
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from server.cli.remote.arguments import instant, row
from server.process.commands.exits import UNSEEN_TOKEN, check_output, check_room, say, shown_once
from server.process.commands.key_rows import KEYS, say_key
from server.process.commands.tables import say_listing

if TYPE_CHECKING:
    from tallystick_client import ApiKey, Tallystick

# The word that removes a key's own limit, expiry, description or accounts.
DEFAULT: Final = "default"


def create(client: "Tallystick", options: argparse.Namespace) -> int:
    """Make a key and print its token; revoke the key if that fails."""
    check_output()
    key = client.api_keys.create(options.role, **_given(options))
    with shown_once("the new key has been revoked", lambda: client.api_keys.revoke(key.id)):
        say(str(key.token))
    return 0


def limit(client: "Tallystick", options: argparse.Namespace) -> int:
    """Change the members of a key that the command line names, and show the key."""
    given = _given(options)
    if not given:
        raise ValueError("name what to change: --rate, --burst, --concurrency, --expires, --description or --accounts")
    changed = client.api_keys.update(_id(options), **given)
    say_key(KEYS, _row(changed), as_json=options.json)
    return 0


def list_keys(client: "Tallystick", options: argparse.Namespace) -> int:
    """List all keys of the ledger."""
    say_listing(KEYS, map(_row, client.api_keys.list()), as_json=options.json)
    return 0


def rotate(client: "Tallystick", options: argparse.Namespace) -> int:
    """Give a key a new token, and print the token."""
    check_room()
    overlap = None if options.overlap is None else _number("overlap", options.overlap)
    key = client.api_keys.rotate(_id(options), overlap_seconds=overlap)
    with shown_once(UNSEEN_TOKEN):
        say(str(key.token))
    return 0


def revoke(client: "Tallystick", options: argparse.Namespace) -> int:
    """Revoke a key."""
    client.api_keys.revoke(_id(options))
    return 0


def _row(key: "ApiKey") -> dict[str, Any]:
    """Return the members of a key without its token, which is shown only when the key is made."""
    members = row(key)
    del members["token"]
    return members


def _id(options: argparse.Namespace) -> str:
    """Return the public id of the key, which may be given whole: no secret may be sent as a part of a URL."""
    from server.gate.tokens import read_key_name

    return read_key_name(options.id)[1]


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the members of a key that the command line sets, under their API names; None removes a member."""
    texts = {
        "rate": options.rate,
        "burst": options.burst,
        "concurrency": options.concurrency,
        "description": options.description,
        "expires_at": options.expires,
        "accounts": options.accounts,
    }
    return {name: _value(name, text) for name, text in texts.items() if text is not None}


def _value(name: str, text: str) -> object:
    """
    Return the value that a server takes for a text of the command line.

    Raises:
        ValueError: The text is not valid.
    """
    if text == DEFAULT:
        return None
    if name in ("burst", "concurrency"):
        return _number(name, text)
    if name == "expires_at":
        return _instant(text)
    return text.split(",") if name == "accounts" else text


def _instant(text: str) -> datetime:
    try:
        return instant(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise ValueError(f"the {name} must be a number, or {DEFAULT}")
    return int(text)
