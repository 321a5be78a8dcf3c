"""The command `completion`: prints a script with which a shell completes commands."""

import argparse

from server.cli.words import Commands
from server.process.commands.exits import fail, say

SHELLS = ("bash", "zsh", "fish")
MISSING = "completion needs the package shtab: install tallystick[cli]"


def add_commands(commands: Commands) -> None:
    """Add the command."""
    text = "print a completion script, for the shell to read when it starts"
    command = commands.add("completion", text, _complete)
    command.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


def _complete(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        return fail(MISSING)
    from server.cli.program import parser

    say(shtab.complete(parser(), shell=options.shell))
    return 0
