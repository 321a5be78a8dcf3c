"""`tallystick events`: lists or follows the events of the key's ledger, in the order of commits."""

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from server.cli.remote.arguments import add_rows, position, row, say_answers
from server.cli.remote.call import on_server, server
from server.cli.words import Commands
from server.process.commands.tables import Column, Row, say_line

if TYPE_CHECKING:
    from tallystick_client import Event, Tallystick


def _name(event: Row) -> str:
    """Return the type of an event as the filter names it: without the prefix and the version."""
    return re.sub(r"^tallystick\.|\.v[0-9]+$", "", str(event["type"]))


COLUMNS: Final = (
    Column("position", right=True, least=len("position")),
    Column("time"),
    Column("type", show=_name, least=len("transfer.reversed")),
    Column("subject"),
)


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.group("events", "list and follow the events of the ledger, on a server")
    action = actions.add("list", "list events in order", on_server(_list), server())
    _add_filters(action)
    add_rows(action)
    text = "print each event as it happens, until Ctrl-C; with --json an object on each line"
    action = actions.add("follow", text, on_server(_follow), server())
    _add_filters(action)


def _add_filters(action: argparse.ArgumentParser) -> None:
    text = "only events after this position (default: 0, from the first event)"
    action.add_argument("--after", type=position, default=0, metavar="POSITION", help=text)
    text = "only events of this type, such as transfer.posted; may be given several times"
    action.add_argument("--type", action="append", metavar="TYPE", help=text)
    action.add_argument("--account", help="only events that concern this account")


def _list(client: "Tallystick", options: argparse.Namespace) -> int:
    say_answers(COLUMNS, _events(client, options), options)
    return 0


def _events(client: "Tallystick", options: argparse.Namespace) -> "Iterator[Event]":
    """Yield the events that exist at this moment, page by page."""
    after, more = options.after, True
    while more:
        page = client.events.list(after=after, types=options.type or (), account=options.account)
        yield from page.data
        # With a filter a page may be empty before the end; only at the end does the position stay the same.
        after, more = page.next_after, page.next_after > after


def _follow(client: "Tallystick", options: argparse.Namespace) -> int:
    chosen = {"types": options.type or (), "account": options.account}
    for event in client.events.follow(after=options.after, outage_seconds=options.deadline, **chosen):
        say_line(COLUMNS, row(event), as_json=options.json)
    return 0
