"""Makes the reference of the command line from the parser; `python -m server.cli.reference` prints it as Markdown."""

import argparse
from collections.abc import Iterator

from server.cli.program import EPILOG, parser
from server.process.commands.exits import EXIT_CODES, say

Path = tuple[str, ...]


def commands(of: argparse.ArgumentParser, path: Path = ()) -> Iterator[tuple[Path, argparse.ArgumentParser]]:
    """Yield every command: the words to type, and its parser."""
    yield path, of
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, (*path, name))


def page() -> str:
    """Return the page."""
    codes = [f"| {code} | {text} |" for code, text in EXIT_CODES.items()]
    sections = [_section(path, command) for path, command in commands(parser()) if path]
    head = [
        "# Command line",
        EPILOG.replace("<", "&lt;"),
        "## Exit codes",
        "\n".join(("| code | meaning |", "| --- | --- |", *codes)),
    ]
    return "\n\n".join(part.strip() for part in (*head, *sections)) + "\n"


def _section(path: Path, command: argparse.ArgumentParser) -> str:
    """Return the section of a command: how to type it, what it does, and what each argument means."""
    own = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    groups = [action for action in own if isinstance(action, argparse._SubParsersAction)]
    explained = [action for action in own if action not in groups]
    words = ["tallystick", *path, *(_written(action) for action in own if action.required)]
    if any(action.option_strings and not action.required for action in own):
        words.append("[OPTION ...]")
    parts = [f"{'#' * min(len(path) + 1, 4)} {' '.join(path)}", str(command.description)]
    if not groups:
        parts.append(f"```\n{' '.join(words)}\n```")
    if explained:
        formatter = command._get_formatter()
        rows = [f"| `{_written(each)}` | {_cell(formatter._expand_help(each))} |" for each in explained]
        parts.append("\n".join(("| argument | meaning |", "| --- | --- |", *rows)))
    return "\n\n".join(parts)


def _written(action: argparse.Action) -> str:
    """Return how an argument is written."""
    value = str(action.metavar or action.dest.upper())
    if action.choices and not action.metavar and not isinstance(action, argparse._SubParsersAction):
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    say(page(), end="")
