"""`tallystick balances`: shows the trial balance of the key's ledger."""

import argparse
from typing import TYPE_CHECKING, Final

from server.cli.remote.arguments import instant, row
from server.cli.remote.call import on_server, server
from server.cli.remote.columns import money
from server.cli.words import Commands
from server.process.commands.tables import Column, say_json, say_listing

if TYPE_CHECKING:
    from tallystick_client import Tallystick

COLUMNS: Final = (Column("currency"), *map(money, ("debit", "credit", "net")), Column("accounts", right=True))


def add_commands(commands: Commands) -> None:
    """Add the command."""
    text = "sum the balances of accounts by currency, on a server; for the whole ledger they net to zero"
    command = commands.add("balances", text, on_server(_show), server())
    command.add_argument("--prefix", help="only accounts whose id begins with this")
    command.add_argument("--at", type=instant, metavar="TIME", help="balances at this instant or day (default: now)")


def _show(client: "Tallystick", options: argparse.Namespace) -> int:
    found = row(client.balances(prefix=options.prefix, at=options.at))
    if options.json:
        say_json(found)
    else:
        say_listing(COLUMNS, found["data"], as_json=False)
    return 0
