"""`tallystick idempotency-keys`: shows what became of a payment whose answer was lost."""

import argparse
from typing import TYPE_CHECKING

from server.cli.remote.arguments import row
from server.cli.remote.call import on_server, server
from server.cli.remote.columns import transfer_columns
from server.cli.words import Commands
from server.process.commands.tables import say_record

if TYPE_CHECKING:
    from tallystick_client import Tallystick


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.group("idempotency-keys", "ask what became of a payment, on a server")
    text = "show the transfer or the refusal that a key is bound to; exit code 3 if it is bound to nothing"
    action = actions.add("get", text, on_server(_get), server())
    action.add_argument("key", metavar="KEY", help="idempotency key that the payment was sent under")


def _get(client: "Tallystick", options: argparse.Namespace) -> int:
    found = row(client.idempotency_keys.get(options.key))
    say_record(transfer_columns(found), found, as_json=options.json)
    return 0
