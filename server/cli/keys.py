"""The words of `tallystick keys`, which work on the database, or ask a server."""

import argparse
from typing import Final

from server.cli.operating import data_place, operate
from server.cli.words import Commands

ROLES: Final = ("read", "write", "admin")


def add_commands(commands: Commands) -> None:
    """Add them."""
    text = (
        "make, limit, list and revoke API keys: in the database, or, where --url or the key of an administrator in "
        "TALLYSTICK_API_KEY is given and no --ledger, those of a server"
    )
    actions = commands.group("keys", text)
    place = data_place()
    action = actions.add("create", "print a new key, and nothing else", operate, place)
    action.add_argument("--ledger", help="name of the ledger, in the database; made when it does not exist")
    roles = "what the key may do; each role may do all that the ones before it may"
    action.add_argument("--role", required=True, choices=ROLES, help=roles)
    _add_limits(action)
    text = "change those limits of a key that are named, within five seconds, and show it"
    action = actions.add("limit", text, operate, place)
    _add_key(action)
    _add_limits(action)
    text = "list keys by their public ids, with rate, burst and concurrency where they have any"
    action = actions.add("list", text, operate, place)
    action.add_argument("--ledger", help="only of this ledger, in the database")
    action = actions.add("revoke", "revoke a key within five seconds, for ever", operate, place)
    _add_key(action)


def _add_key(action: argparse.ArgumentParser) -> None:
    action.add_argument("--ledger", help="name of the key's ledger, in the database; needed there with a public id")
    action.add_argument("id", metavar="KEY", help="public id, as `keys list` shows it, or the whole key")


def _add_limits(action: argparse.ArgumentParser) -> None:
    action.add_argument("--rate", help="requests the key may make: N/s, N/min, N/h or N/day, or default: the service's")
    action.add_argument("--burst", help="requests it may make at once, or default: as many as the rate's N")
    action.add_argument("--concurrency", help="requests it may have running at once in one worker, or default")
