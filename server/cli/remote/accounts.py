"""`tallystick accounts`: reads and changes accounts of the key's ledger."""

import argparse
from typing import TYPE_CHECKING, Any

from server.cli.remote import statements
from server.cli.remote.amounts import read_currency
from server.cli.remote.arguments import (
    NO_LIMIT,
    add_metadata,
    add_minor,
    add_rows,
    metadata,
    read_limit,
    row,
    say_answers,
)
from server.cli.remote.call import on_server, server
from server.cli.remote.columns import ACCOUNT, ACCOUNTS
from server.cli.words import Commands
from server.process.commands.tables import say_record

if TYPE_CHECKING:
    from tallystick_client import Account, Tallystick


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.group("accounts", "open, change and read accounts, on a server")
    action = actions.add("list", "list accounts by id", on_server(_list), server())
    action.add_argument("--prefix", help="only accounts whose id begins with this")
    add_rows(action)
    action = actions.add("get", "show an account", on_server(_get), server())
    _add_id(action)
    action = actions.add("create", "open an account; running it again changes nothing", on_server(_create), server())
    _add_id(action, "id that you choose for the account, such as customer:42")
    action.add_argument("currency", metavar="CURRENCY", help="such as EUR: 3 to 8 capital letters or digits")
    _add_limits(action, "0")
    add_metadata(action, "an entry of its metadata; may be given several times")
    action = actions.add("update", "change the named fields of an account", on_server(_update), server())
    _add_id(action)
    _add_limits(action)
    add_metadata(action, "an entry to set, or with an empty VALUE to remove; may be given several times")
    action.add_argument("--if-version", type=int, metavar="N", help="only if the account has this version")
    action = actions.add(
        "close", "close an account, so that it takes part in no more transfers", on_server(_close), server()
    )
    _add_id(action)
    statements.add_commands(actions)


def _add_id(action: argparse.ArgumentParser, text: str = "id of the account") -> None:
    action.add_argument("id", metavar="ACCOUNT", help=text)


def _add_limits(action: argparse.ArgumentParser, floor: str = "unchanged") -> None:
    ceiling = NO_LIMIT if floor == "0" else floor
    text = f"lowest available balance that it may have: an amount, or {NO_LIMIT} (default: {floor})"
    action.add_argument("--floor", metavar="AMOUNT", help=text)
    text = f"highest balance that it may have: an amount, or {NO_LIMIT} (default: {ceiling})"
    action.add_argument("--ceiling", metavar="AMOUNT", help=text)
    add_minor(action)


def _list(client: "Tallystick", options: argparse.Namespace) -> int:
    say_answers(ACCOUNTS, client.accounts.list(prefix=options.prefix), options)
    return 0


def _say(account: "Account", options: argparse.Namespace) -> int:
    say_record(ACCOUNT, row(account), as_json=options.json)
    return 0


def _get(client: "Tallystick", options: argparse.Namespace) -> int:
    return _say(client.accounts.get(options.id), options)


def _create(client: "Tallystick", options: argparse.Namespace) -> int:
    currency = read_currency(options.currency)
    given = _limits(options, currency)
    return _say(client.accounts.create(options.id, currency, metadata=metadata(options), **given), options)


def _limits(options: argparse.Namespace, currency: str) -> dict[str, Any]:
    """Return the limits that the command line names."""
    named = {name: getattr(options, name) for name in ("floor", "ceiling")}
    return {name: read_limit(text, currency, minor=options.minor) for name, text in named.items() if text is not None}


def _update(client: "Tallystick", options: argparse.Namespace) -> int:
    given: dict[str, Any] = {}
    if options.floor is not None or options.ceiling is not None:
        # The amounts are decimals of the account's currency, so look it up.
        given = _limits(options, client.accounts.get(options.id).currency)
    if options.metadata:
        given["metadata"] = {name: value or None for name, value in metadata(options).items()}
    if not given:
        raise ValueError("name what to change: --floor, --ceiling or --metadata")
    return _say(client.accounts.update(options.id, if_version=options.if_version, **given), options)


def _close(client: "Tallystick", options: argparse.Namespace) -> int:
    return _say(client.accounts.update(options.id, closed=True), options)
