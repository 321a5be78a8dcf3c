"""The arguments of `tallystick keys`, whose actions work on the database or call a server."""

import argparse
from typing import Final

from server.cli.operating import data_place, operate
from server.cli.remote import keys as remote
from server.cli.remote.call import Action, named_in_environment, on_server, way
from server.cli.words import Commands, Run, listing
from server.process.commands.exits import fail

ROLES: Final = ("read", "write", "admin")


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    text = (
        "create, limit, list, rotate and revoke API keys in the database; or on a server, if --url or "
        "TALLYSTICK_API_KEY is given and neither --ledger nor --data-dir"
    )
    actions = commands.group("keys", text)
    places = (data_place(), way())
    action = actions.add(
        "create", "create a key, and print its token and nothing else", _either(remote.create), *places
    )
    action.add_argument("--ledger", help="name of the ledger in the database; created if it does not exist")
    roles = "what the key may do; each role includes the ones before it"
    action.add_argument("--role", required=True, choices=ROLES, help=roles)
    _add_limits(action)
    _add_bounds(action)
    text = "change the named properties of a key, with effect within five seconds, and show the key"
    action = actions.add("limit", text, _either(remote.limit), *places, listing())
    _add_key(action)
    _add_limits(action)
    _add_bounds(action)
    text = "list keys with their public ids, limits, accounts, last use and state"
    action = actions.add("list", text, _either(remote.list_keys), *places, listing())
    action.add_argument("--ledger", help="only keys of this ledger, in the database")
    text = "print a new token for a key; earlier tokens work until the overlap ends"
    action = actions.add("rotate", text, _either(remote.rotate), *places)
    _add_key(action)
    action.add_argument(
        "--overlap", metavar="SECONDS", help="seconds that earlier tokens still work, 0 to 604800 (default: 86400)"
    )
    action = actions.add(
        "revoke", "revoke a key for ever, with effect within five seconds", _either(remote.revoke), *places
    )
    _add_key(action)


def _either(action: Action) -> Run:
    """Return a function that works on the database if the command line names a place in it, or else calls a server."""
    ask = on_server(action)

    def run(options: argparse.Namespace) -> int:
        in_database = options.ledger is not None or options.data_dir is not None
        if in_database and options.url is not None:
            return fail("--url names a server, --ledger and --data-dir name a database: do not give both")
        if in_database or (options.url is None and not named_in_environment("api_key")):
            return operate(options)
        return ask(options)

    return run


def _add_key(action: argparse.ArgumentParser) -> None:
    action.add_argument("--ledger", help="name of the key's ledger in the database; required there with a public id")
    action.add_argument("id", metavar="KEY", help="public id, as `keys list` shows it, or the whole key")


def _add_limits(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--rate", help="requests the key may make: N/s, N/min, N/h or N/day, or 'default' for the service's limit"
    )
    action.add_argument("--burst", help="requests it may make at once, or 'default' for the N of its rate")
    action.add_argument("--concurrency", help="requests it may have running at once in one worker, or 'default'")


def _add_bounds(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--expires", metavar="TIME", help="instant from which the key no longer works, or 'default' for never"
    )
    action.add_argument("--description", metavar="TEXT", help="what the key is for, or 'default' for no description")
    accounts = "prefixes of account ids, separated by commas, that narrow the key, or 'default' for the whole ledger"
    action.add_argument("--accounts", metavar="PREFIXES", help=accounts)
