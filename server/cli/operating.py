"""The commands of operators: they work on the settings, databases and processes of this machine."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli import sinks
from server.cli.words import Commands, Parser, listing
from server.process.commands.exits import fail

if TYPE_CHECKING:
    from server.settings import Loaded


def add_commands(commands: Commands, words: Sequence[str] | None = None) -> None:
    """Add the commands; those that take long to load are added only if *words* name them."""
    place = data_place()
    _add_serving(commands, place)
    commands.add("migrate", "migrate the database to the schema that this version needs", operate, place)
    sinks.add_commands(commands, place, operate, words)
    text = "check that the books add up; exit code 1 if they do not"
    command = commands.add("audit", text, operate, place, listing())
    command.add_argument("--ledger", help="only this ledger")
    command.add_argument(
        "--metrics",
        type=Path,
        metavar="FILE",
        help="also write the outcome to this file, NAME.prom, for the Prometheus node exporter",
    )
    _add_books(commands, place)
    text = "check program, machine, stores and webhooks, and say how to fix each fault; exit code 1 if there is one"
    commands.add("doctor", text, operate, place, listing())
    commands.add("config", "show every setting, its value and where it came from", _config, place, listing())


def data_place() -> Parser:
    """Return the parent parser of commands that may work on embedded servers."""
    parent = Parser(add_help=False)
    parent.add_argument("--data-dir", help="folder of the embedded servers (default: data)")
    return parent


def operate(options: argparse.Namespace) -> int:
    """Run a command on the databases that the settings name."""
    loaded = _checked(_reader(options)())
    from server.process.commands.operate import operate as carry_out

    return carry_out(loaded, options)


def _add_serving(commands: Commands, place: Parser) -> None:
    text = "serve until SIGTERM or Ctrl-C; SIGHUP swaps the workers one by one"
    command = commands.add("serve", text, _serve, place)
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", help="TCP port to listen on, 0 for a free one (default: 8080)")
    command.add_argument("--admin-host", help="address of the admin port, for operators (default: 127.0.0.1)")
    command.add_argument(
        "--admin-port", help="TCP port of /livez and /readyz for operators, 0 for a free one (default: 8081)"
    )
    command.add_argument("--workers", help="worker processes: a number, or auto for one per processor (default: auto)")
    command.add_argument(
        "--background",
        action=argparse.BooleanOptionalAction,
        help="whether a background process runs beside the workers (default: yes)",
    )
    text = (
        "do the background work of servers run with --no-background, until SIGTERM or Ctrl-C; if several run, one leads"
    )
    command = commands.add("background", text, _background)
    command.add_argument("--admin-host", help="address of the admin port, for operators (default: 127.0.0.1)")
    command.add_argument("--admin-port", help="TCP port of /livez, /readyz and /metrics (default: a free one)")


def _add_books(commands: Commands, place: Parser) -> None:
    command = commands.add("export", "write a ledger's accounts and postings", operate, place)
    command.add_argument("--ledger", required=True, help="name of the ledger")
    formats = "an hledger journal, or what import reads: CSV or JSON Lines"
    command.add_argument("--format", required=True, choices=["hledger", "csv", "jsonl"], help=formats)
    text = "file to create or replace (default: standard output)"
    command.add_argument("--output", type=Path, metavar="FILE", help=text)
    command.add_argument("--from", dest="since", metavar="TIME", help="only postings from this time on")
    command.add_argument("--to", dest="until", metavar="TIME", help="only postings before this time")
    text = "post a CSV or JSON Lines file into a ledger; when run again, it continues where it stopped"
    command = commands.add("import", text, operate, place)
    command.add_argument("file", type=Path, metavar="FILE", help="file with the columns that export writes")
    command.add_argument("--ledger", required=True, help="name of the ledger; created if it does not exist")


def _reader(options: argparse.Namespace) -> "Callable[[], Loaded]":
    """Return a function that reads the settings, including those of the command line."""
    from server.settings import load

    names = ("data_dir", "host", "port", "admin_host", "admin_port", "workers", "background")
    overrides = {name: getattr(options, name, None) for name in names}
    return lambda: load(overrides=overrides)


def _checked(loaded: "Loaded") -> "Loaded":
    from server.checked_settings import check_settings

    check_settings(loaded.settings)
    return loaded


def _serve(options: argparse.Namespace) -> int:
    read = _reader(options)
    loaded = read()
    from server.process.commands.serve import serve

    text = serve(loaded, read)
    return 0 if text is None else fail(text)


def _background(options: argparse.Namespace) -> int:
    loaded = _checked(_reader(options)())
    from server.process.commands.background import run_background

    text = run_background(loaded)
    return 0 if text is None else fail(text)


def _config(options: argparse.Namespace) -> int:
    loaded = _checked(_reader(options)())
    from server.process.commands.tables import Column, say_listing
    from server.settings import shown

    rows = [dict(zip(("name", "value", "source"), row, strict=True)) for row in shown(loaded)]
    say_listing([Column("name"), Column("value"), Column("source")], rows, as_json=options.json)
    return 0
