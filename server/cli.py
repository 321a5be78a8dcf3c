"""The command line: `tallystick`."""

import argparse
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import uvloop

from server.process.commands.audit import report_audit
from server.process.commands.demo import demo_key, welcome
from server.process.commands.doctor import examine
from server.process.commands.keys import create_key, list_keys, revoke_key
from server.process.commands.target import Target, open_target
from server.process.embedded import EmbeddedError
from server.process.serve import listen, serve
from server.settings import Loaded, Settings, SettingsError, load, shown
from server.store.errors import StoreError
from server.store.migrations import migrate
from server.store.postgres import Database
from server.telemetry.logs import configure_logs

T = TypeVar("T")

# Exit codes: something was looked at and is not well; the command could not be carried out.
EXIT_FAULTS = 1
EXIT_ERROR = 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main_parser = argparse.ArgumentParser(
        prog="tallystick",
        description="A payments ledger over HTTP.",
        epilog="Every setting can also be given as TALLYSTICK_<NAME>; `tallystick config` shows them all.",
    )
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", help="folder of the embedded servers (default: data)")

    command = commands.add_parser("serve", parents=[common], help="serve until SIGTERM or Ctrl-C")
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", help="TCP port to listen on, 0 for a free one (default: 8080)")

    commands.add_parser("migrate", parents=[common], help="bring the database to the state this program needs")

    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("create", parents=[common], help="print a new key, and nothing else")
    action.add_argument("--ledger", required=True, help="name of the ledger; made when it does not exist")
    action.add_argument("--role", required=True, choices=["read", "write", "admin"])
    action = actions.add_parser("list", parents=[common], help="list keys by their public ids")
    action.add_argument("--ledger", help="only of this ledger")
    action = actions.add_parser("revoke", parents=[common], help="revoke a key within five seconds, for ever")
    action.add_argument("--ledger", required=True)
    action.add_argument("id", help="public id, as `keys list` shows it")

    command = commands.add_parser(
        "audit", parents=[common], help="prove that the books add up (exit code 1: they do not)"
    )
    command.add_argument("--ledger", help="only this ledger")
    commands.add_parser("doctor", parents=[common], help="check what start-up asserts and say what to do")
    commands.add_parser("config", parents=[common], help="show every setting, its value and where it came from")
    return main_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = parser().parse_args(arguments)
    overrides = {name: getattr(options, name, None) for name in ("data_dir", "host", "port")}
    try:
        loaded = load(overrides=overrides)
        configure_logs(loaded.settings.log_level)
        return COMMANDS[options.command](loaded, options)
    except (SettingsError, EmbeddedError, StoreError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except asyncpg.PostgresError as error:
        return _fail(f"Postgres refuses: {error}")
    except KeyboardInterrupt:
        return 130


def _fail(text: str) -> int:
    print(f"tallystick: {text}", file=sys.stderr)
    return EXIT_ERROR


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


def _serve(loaded: Loaded, _: argparse.Namespace) -> int:
    settings = loaded.settings
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        return _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    with listener, open_target(settings, redis=True) as target:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        text = f"Tallystick serves at {url}"
        if target.embedded:
            _run(migrate(target.database_url))
            text = welcome(url, _run(demo_key(target.database_url, Path(settings.data_dir))))

        def started() -> None:
            print(text, flush=True)

        _run(serve(_addressed(settings, target), listener, started))
    return 0


def _addressed(settings: Settings, target: Target) -> Settings:
    """Return the settings with the addresses of the servers that are really used."""
    fields = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    return Settings(**{**fields, "database_url": target.database_url, "redis_url": target.redis_url})


def _migrate(loaded: Loaded, _: argparse.Namespace) -> int:
    with open_target(loaded.settings) as target:
        done = _run(migrate(target.database_url))
    print("\n".join(f"applied {line}" for line in done) or "nothing to do")
    return 0


def _keys(loaded: Loaded, options: argparse.Namespace) -> int:
    async def act(target: Target) -> int:
        if target.embedded:
            await migrate(target.database_url)
        async with Database(target.database_url, posting_connections=1, reading_connections=1) as database:
            if options.action == "create":
                print(await create_key(database, options.ledger, options.role))
            elif options.action == "list":
                for key in await list_keys(database, options.ledger):
                    state = f"revoked {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}" if key.revoked_at else "active"
                    print(f"{key.ledger}\t{key.id}\t{key.role}\t{key.created_at:%Y-%m-%dT%H:%M:%SZ}\t{state}")
            elif not await revoke_key(database, options.ledger, options.id):
                return _fail(f"the ledger {options.ledger} has no key {options.id}")
        return 0

    with open_target(loaded.settings) as target:
        try:
            return _run(act(target))
        except asyncpg.CheckViolationError:
            return _fail("a ledger's name has 1 to 64 letters, digits, and . : _ - after the first")
        except (asyncpg.UndefinedTableError, asyncpg.InvalidParameterValueError):
            return _fail("the schema is missing: run `tallystick migrate` first")


def _audit(loaded: Loaded, options: argparse.Namespace) -> int:
    with open_target(loaded.settings) as target:
        return 0 if _run(report_audit(target.database_url, options.ledger)) else EXIT_FAULTS


def _doctor(loaded: Loaded, _: argparse.Namespace) -> int:
    with open_target(loaded.settings, redis=True) as target:
        findings = _run(examine(loaded.settings, target))
    for finding in findings:
        print(f"{'FAULT' if finding.faults else 'ok':6}{finding.subject}")
        for fault in finding.faults:
            print(f"      - {fault}")
    return EXIT_FAULTS if any(finding.faults for finding in findings) else 0


def _config(loaded: Loaded, _: argparse.Namespace) -> int:
    rows = shown(loaded)
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}")
    return 0


COMMANDS = {"serve": _serve, "migrate": _migrate, "keys": _keys, "audit": _audit, "doctor": _doctor, "config": _config}


if __name__ == "__main__":
    sys.exit(main())
