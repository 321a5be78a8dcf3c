"""The parts that commands are made of: a parser that repeats no secrets, and groups of commands."""

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from server.process.commands.exits import EXIT_ERROR, complain, say

# Runs a command and returns its exit code.
Run = Callable[[argparse.Namespace], int]


# Words of the command line in argparse's messages. One may be a secret in the wrong place.
_LEFT_OVER: Final = "unrecognized arguments"
_VALUE: Final = re.compile(r": (?:'.*'|\".*\")(?= \(choose from |\Z)|(?<=ignored explicit argument) .*", re.DOTALL)
_OPTION: Final = re.compile(r"(?<=\s)--[a-z-]+(?=[=\s]|\Z)")


def _without_values(message: str) -> str:
    """Return a message of argparse with the names of options, but without what else the command line says."""
    if message.startswith(_LEFT_OVER):
        return " ".join((_LEFT_OVER, *_OPTION.findall(message)))
    return _VALUE.sub("", message)


class Parser(argparse.ArgumentParser):
    """A parser whose messages repeat no secrets, and that raises OutputError if its help cannot be written."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.format_usage()}{self.prog}: error: {_without_values(message)}")
        raise SystemExit(EXIT_ERROR)

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is None or file is sys.stderr:
            complain(message, end="")
        else:
            say(message, end="")


class Version(argparse.Action):
    """Prints the version; looks it up only when asked."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        from server.telemetry.version import VERSION

        say(f"tallystick {VERSION}")
        raise SystemExit(0)


class Commands:
    """
    A group of commands, of which the command line names one.

    Args:
        of: The parser that they belong to.

        name: Their name in the help, in capitals; the parsed options hold the chosen command under it in small letters.
    """

    def __init__(self, of: argparse.ArgumentParser, name: str = "ACTION") -> None:
        self._choices = of.add_subparsers(dest=name.lower(), required=True, metavar=name, parser_class=Parser)

    def add(self, name: str, text: str, run: Run | None = None, *parents: Parser) -> Parser:
        """
        Add a command and return its parser.

        Args:
            text: What the command does, without a capital and a full stop.

            run: Runs the command; None if it is a group.

            parents: Parsers whose arguments it also takes.
        """
        description = f"{text[0].upper()}{text[1:]}."
        command: Parser = self._choices.add_parser(name, parents=parents, help=text, description=description)
        if run is not None:
            command.set_defaults(run=run)
        return command

    def group(self, name: str, text: str, actions: str = "ACTION") -> "Commands":
        """Add a command that is a group of commands, and return the group."""
        return Commands(self.add(name, text), actions)


def listing() -> Parser:
    """Return the parent parser of commands that print for people or for programs."""
    parent = Parser(add_help=False)
    parent.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parent
