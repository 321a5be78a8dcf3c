"""The commands of operators: they work on the settings, databases and processes of this machine."""

import argparse
from collections.abc import Callable, Sequence
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
    commands.add("migrate", "bring the database to the state this program needs", operate, place)
    sinks.add_commands(commands, place, operate, words)
    text = "prove that the books add up; exit code 1 when they do not"
    command = commands.add("audit", text, operate, place, listing())
    command.add_argument("--ledger", help="only this ledger")
    command.add_argument(
        "--metrics", metavar="FILE", help="write the outcome for a Prometheus node exporter, NAME.prom"
    )
    _add_books(commands, place)
    text = "check what start-up asserts and say what to do; exit code 1 when there is a fault"
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
    command.add_argument("--admin-host", help="address to answer operators on (default: 127.0.0.1)")
    command.add_argument(
        "--admin-port", help="TCP port of /livez and /readyz for operators, 0 for a free one (default: 8081)"
    )
    command.add_argument("--workers", help="worker processes: a number, or auto for one a processor (default: auto)")
    command.add_argument(
        "--background",
        action=argparse.BooleanOptionalAction,
        help="whether a background process runs beside the workers (default: it does)",
    )
    text = "do the background work of servers with --no-background, until SIGTERM or Ctrl-C; one of several leads"
    command = commands.add("background", text, _background)
    command.add_argument("--admin-host", help="address to answer operators on (default: 127.0.0.1)")
    command.add_argument("--admin-port", help="TCP port of /livez, /readyz and /metrics (default: a free one)")


def _add_books(commands: Commands, place: Parser) -> None:
    command = commands.add("export", "write the accounts and all that was posted of a ledger", operate, place)
    command.add_argument("--ledger", required=True, help="name of the ledger")
    formats = "a journal of hledger, or what import reads: CSV or JSON Lines"
    command.add_argument("--format", required=True, choices=["hledger", "csv", "jsonl"], help=formats)
    command.add_argument("--output", metavar="FILE", help="file to make or replace (default: standard output)")
    command.add_argument("--from", dest="since", metavar="TIME", help="only what was posted from then on")
    command.add_argument("--to", dest="until", metavar="TIME", help="only what was posted before then")
    text = "post a file of CSV or JSON Lines into a ledger; run again, it goes on where it stopped"
    command = commands.add("import", text, operate, place)
    command.add_argument("file", metavar="FILE", help="with the columns that export writes")
    command.add_argument("--ledger", required=True, help="name of the ledger; made when it does not exist")


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
