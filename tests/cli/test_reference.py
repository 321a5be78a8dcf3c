"""The reference page of the command line: all commands, all arguments, and the exit codes."""

import re

import pytest

from server.cli import parser
from server.cli.reference import commands, page
from server.process.commands.exits import EXIT_CODES
from tests.support.command import call

PAGE = page()


def test_everything_is_there() -> None:
    """Each command has a section, and each option a line with a description."""
    sections = re.split(r"^#{2,4} ", PAGE, flags=re.MULTILINE)[1:]
    by_name = {section.partition("\n")[0]: section for section in sections}
    for path, command in commands(parser()):
        for action in command._actions if path else ():
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert re.search(rf"^\| `[^`]*{option}\b[^`]*` \| \S", by_name[" ".join(path)], re.MULTILINE), path
    assert len(by_name) == 1 + sum(1 for path, _ in commands(parser()) if path)


async def test_exit_codes() -> None:
    """The help of the program and the page name every exit code."""
    out = (await call("--help")).out
    for code, text in EXIT_CODES.items():
        assert re.search(rf"^  {code} +{re.escape(text)}$", out, re.MULTILINE)
        assert f"\n| {code} | {text} |\n" in PAGE


def test_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page does not depend on the terminal's width."""
    monkeypatch.setenv("COLUMNS", "40")
    assert page() == PAGE
