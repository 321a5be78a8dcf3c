"""The command line: `tallystick`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from server.events.sinks.options import KINDS, arguments
from server.process.commands.exits import (
    EXIT_ERROR,
    EXIT_NO_READER,
    NoReaderError,
    OutputError,
    complain,
    fail,
    open_descriptors,
    say,
)
from server.settings import Loaded, SettingsError, load, shown

log = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """A parser whose messages repeat no secret, and that says so when its help cannot be written."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.format_usage()}{self.prog}: error: {message}")
        raise SystemExit(EXIT_ERROR)

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is None or file is sys.stderr:
            complain(message, end="")
        else:
            say(message, end="")


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        from server.telemetry.version import VERSION

        say(f"tallystick {VERSION}")
        raise SystemExit(0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main_parser = _Parser(
        prog="tallystick",
        description="A payments ledger over HTTP.",
        epilog="Every setting can also be given as TALLYSTICK_<NAME>, or as TALLYSTICK_<NAME>_FILE with the name of a "
        "file that holds it; an empty variable counts as not set. `tallystick config` shows them all.",
    )
    main_parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _Parser(add_help=False)
    common.add_argument("--data-dir", help="folder of the embedded servers (default: data)")

    def add(to: "argparse._SubParsersAction[_Parser]", name: str, text: str) -> argparse.ArgumentParser:
        return to.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")

    command = add(commands, "serve", "serve until SIGTERM or Ctrl-C; SIGHUP swaps the workers one by one")
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
    command = commands.add_parser("background", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("--admin-host", help="address to answer operators on (default: 127.0.0.1)")
    command.add_argument("--admin-port", help="TCP port of /livez, /readyz and /metrics (default: a free one)")

    add(commands, "migrate", "bring the database to the state this program needs")

    _add_keys(commands, add)
    _add_sinks(commands, add)
    command = add(commands, "audit", "prove that the books add up; exit code 1 when they do not")
    command.add_argument("--ledger", help="only this ledger")
    command.add_argument(
        "--metrics", metavar="FILE", help="write the outcome for a Prometheus node exporter, NAME.prom"
    )
    _add_export(add(commands, "export", "write the accounts and all that was posted of a ledger"))
    text = "post a file of CSV or JSON Lines into a ledger; run again, it goes on where it stopped"
    command = add(commands, "import", text)
    command.add_argument("file", metavar="FILE", help="with the columns that export writes")
    command.add_argument("--ledger", required=True, help="name of the ledger; made when it does not exist")
    add(commands, "doctor", "check what start-up asserts and say what to do; exit code 1 when there is a fault")
    add(commands, "config", "show every setting, its value and where it came from")
    return main_parser


def _add_keys(
    commands: "argparse._SubParsersAction[_Parser]",
    add: Callable[["argparse._SubParsersAction[_Parser]", str, str], argparse.ArgumentParser],
) -> None:
    text = "make, limit, list, rotate and revoke API keys"
    keys = commands.add_parser("keys", help=text, description=f"{text[0].upper()}{text[1:]}.")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = add(actions, "create", "print a new key, and nothing else")
    action.add_argument("--ledger", required=True, help="name of the ledger; made when it does not exist")
    roles = "what the key may do; each role may do all that the ones before it may"
    action.add_argument("--role", required=True, choices=["read", "write", "admin"], help=roles)
    _add_limits(action)
    _add_bounds(action)
    action = add(actions, "limit", "change what is named of a key, within five seconds, and print it")
    _add_key(action)
    _add_limits(action)
    _add_bounds(action)
    action = add(actions, "list", "list keys by their public ids, with limits, accounts, last use and state")
    action.add_argument("--ledger", help="only of this ledger")
    action = add(actions, "rotate", "print a new token of a key; those before it work for the overlap and no longer")
    _add_key(action)
    action.add_argument("--overlap", metavar="SECONDS", help="seconds, 0 to 604800 (default: 86400)")
    action = add(actions, "revoke", "revoke a key within five seconds, for ever")
    _add_key(action)


def _add_sinks(
    commands: "argparse._SubParsersAction[_Parser]",
    add: Callable[["argparse._SubParsersAction[_Parser]", str, str], argparse.ArgumentParser],
) -> None:
    text = "set up brokers that are sent every event, and see how far they are"
    sinks = commands.add_parser("sinks", help=text, description=f"{text[0].upper()}{text[1:]}.")
    actions = sinks.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "make a sink; events are sent to it within a second"
    create = actions.add_parser("create", help=text, description=f"{text[0].upper()}{text[1:]}.")
    kinds = create.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, options in KINDS.items():
        action = add(kinds, kind, f"a sink that is {(options.__doc__ or '')[0].lower()}{(options.__doc__ or '')[1:-1]}")
        action.add_argument("--name", required=True, help="what the sink is called in other commands and in metrics")
        action.add_argument("--ledger", help="name of the ledger whose events it is sent (default: those of all)")
        text = "begin with what happens from now on, or with the first event (default: now)"
        action.add_argument("--from-position", choices=["now", "start"], default="now", help=text)
        for argument in arguments(kind):
            if argument.flag:
                action.add_argument(argument.word, action="store_true", default=None, help=argument.help)
            else:
                action.add_argument(argument.word, required=argument.required, help=argument.help)
    for name, text in (
        ("list", "list sinks and where they lead"),
        ("status", "show how far sinks are behind, and what is wrong"),
    ):
        action = add(actions, name, text)
        action.add_argument("--json", action="store_true", help="as JSON, for programs")
    for name, text in (
        ("pause", "send nothing to a sink within a second, until it is resumed; it keeps its place"),
        ("resume", "send events to a sink again, from where it was"),
        ("delete", "remove a sink and its place"),
    ):
        action = add(actions, name, text)
        action.add_argument("name", metavar="NAME", help="name of the sink")
        if name == "resume":
            action.add_argument("--skip", action="store_true", help="without the event that its broker refused")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("--ledger", required=True, help="name of the ledger")
    formats = "a journal of hledger, or what import reads: CSV or JSON Lines"
    command.add_argument("--format", required=True, choices=["hledger", "csv", "jsonl"], help=formats)
    command.add_argument("--output", metavar="FILE", help="file to make or replace (default: standard output)")
    command.add_argument("--from", dest="since", metavar="TIME", help="only what was posted from then on")
    command.add_argument("--to", dest="until", metavar="TIME", help="only what was posted before then")


def _add_key(action: argparse.ArgumentParser) -> None:
    action.add_argument("--ledger", help="name of the key's ledger; needed with a public id")
    action.add_argument("id", metavar="KEY", help="public id, as `keys list` shows it, or the whole key")


def _add_limits(action: argparse.ArgumentParser) -> None:
    action.add_argument("--rate", help="requests the key may make: N/s, N/min, N/h or N/day, or default: the service's")
    action.add_argument("--burst", help="requests it may make at once, or default: as many as the rate's N")
    action.add_argument("--concurrency", help="requests it may have running at once in one worker, or default")


def _add_bounds(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--expires", metavar="TIME", help="instant from which on the key opens nothing, or default: never"
    )
    action.add_argument("--description", metavar="TEXT", help="what the key is for, or default: nothing")
    accounts = "prefixes of account ids, separated by commas, that the key is narrowed to, or default: the whole ledger"
    action.add_argument("--accounts", metavar="PREFIXES", help=accounts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    open_descriptors()
    try:
        return _run(parser().parse_args(arguments))
    except SettingsError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return 130
    except NoReaderError:
        return EXIT_NO_READER
    except OutputError as error:
        return fail(f"standard output cannot be written: {error}")
    except Exception as error:
        from server.process.error_messages import explain, explain_fault

        log.debug("the command failed", exc_info=error)
        return fail(explain(error) or explain_fault(error))


def _run(options: argparse.Namespace) -> int:
    names = ("data_dir", "host", "port", "admin_host", "admin_port", "workers", "background")
    overrides = {name: getattr(options, name, None) for name in names}

    def read() -> Loaded:
        return load(overrides=overrides)

    return COMMANDS[options.command](read(), options, read)


def _serve(loaded: Loaded, _: argparse.Namespace, read: Callable[[], Loaded]) -> int:
    from server.process.commands.serve import serve

    text = serve(loaded, read)
    return 0 if text is None else fail(text)


def _background(loaded: Loaded, _: argparse.Namespace, __: Callable[[], Loaded]) -> int:
    from server.app import check_settings
    from server.process.commands.background import run_background

    check_settings(loaded.settings)
    text = run_background(loaded)
    return 0 if text is None else fail(text)


def _operate(loaded: Loaded, options: argparse.Namespace, _: Callable[[], Loaded]) -> int:
    from server.app import check_settings
    from server.process.commands.operate import operate

    check_settings(loaded.settings)
    return operate(loaded, options)


def _config(loaded: Loaded, _: argparse.Namespace, __: Callable[[], Loaded]) -> int:
    from server.app import check_settings

    check_settings(loaded.settings)
    rows = shown(loaded)
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        say(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}")
    return 0


COMMANDS = {
    "serve": _serve,
    "background": _background,
    "migrate": _operate,
    "keys": _operate,
    "sinks": _operate,
    "audit": _operate,
    "doctor": _operate,
    "export": _operate,
    "import": _operate,
    "config": _config,
}


if __name__ == "__main__":
    sys.exit(main())
