"""Puts the whole command line together."""

import argparse
from collections.abc import Sequence

from server.cli import completion, keys, operating
from server.cli.remote import accounts, balances, events, idempotency_keys, transfers, webhook_endpoints
from server.cli.words import Commands, Parser, Version
from server.process.commands.exits import shown_codes

EPILOG = """\
Commands that call a server (accounts, pay, transfers, idempotency-keys, balances, events, webhook-endpoints, keys) read
its address from TALLYSTICK_URL (default: http://127.0.0.1:8080) and their key from TALLYSTICK_API_KEY, or from the
file that TALLYSTICK_API_KEY_FILE names.

Every setting of the service can also be given as TALLYSTICK_<NAME>, or as TALLYSTICK_<NAME>_FILE with the name of a
file that holds it; an empty variable counts as not set. `tallystick config` shows them all.
"""


def parser(words: Sequence[str] | None = None) -> Parser:
    """
    Return the parser of the command line.

    Args:
        words: The arguments that will be parsed. Commands that take long to load are left out unless these name them;
            None leaves nothing out.
    """
    main_parser = Parser(
        prog="tallystick",
        description="A payments ledger over HTTP.",
        epilog=f"{shown_codes()}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main_parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = Commands(main_parser, "COMMAND")
    operating.add_commands(commands, words)
    keys.add_commands(commands)
    accounts.add_commands(commands)
    transfers.add_commands(commands)
    idempotency_keys.add_commands(commands)
    balances.add_commands(commands)
    events.add_commands(commands)
    webhook_endpoints.add_commands(commands)
    completion.add_commands(commands)
    return main_parser
