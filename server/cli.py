"""The command line: `tallystick`."""

import argparse
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import uvloop

from server.gate.limits import BURST_MAX, CONCURRENCY_MAX, Limit, read_rate
from server.process.commands.audit import report_audit
from server.process.commands.demo import demo_key, welcome
from server.process.commands.doctor import examine
from server.process.commands.keys import KeyLimit, create_key, limit_key, list_keys, revoke_key, shown_limit
from server.process.commands.target import Target, migrate_target, open_target
from server.process.embedded import EmbeddedError
from server.process.serve import listen, serve
from server.settings import Loaded, Settings, SettingsError, load, shown
from server.store.errors import StoreError, StoreUnavailableError
from server.store.postgres import Database
from server.telemetry.logs import configure_logs

T = TypeVar("T")

# Exit codes: something was looked at and is not well; the command could not be carried out.
EXIT_FAULTS = 1
EXIT_ERROR = 2

UNREACHABLE = "Postgres cannot be reached ({}): check TALLYSTICK_DATABASE_URL, and that the server runs"


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

    def add(to: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str) -> argparse.ArgumentParser:
        return to.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")

    command = add(commands, "serve", "serve until SIGTERM or Ctrl-C")
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", help="TCP port to listen on, 0 for a free one (default: 8080)")

    add(commands, "migrate", "bring the database to the state this program needs")

    text = "make, limit, list and revoke API keys"
    keys = commands.add_parser("keys", help=text, description=f"{text[0].upper()}{text[1:]}.")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = add(actions, "create", "print a new key, and nothing else")
    action.add_argument("--ledger", required=True, help="name of the ledger; made when it does not exist")
    roles = "what the key may do; each role may do all that the ones before it may"
    action.add_argument("--role", required=True, choices=["read", "write", "admin"], help=roles)
    _add_limits(action)
    action = add(actions, "limit", "change a key's limits within five seconds")
    action.add_argument("--ledger", required=True, help="name of the key's ledger")
    action.add_argument("id", help="public id, as `keys list` shows it")
    _add_limits(action)
    action = add(actions, "list", "list keys by their public ids, with rate, burst and concurrency where they have any")
    action.add_argument("--ledger", help="only of this ledger")
    action = add(actions, "revoke", "revoke a key within five seconds, for ever")
    action.add_argument("--ledger", required=True, help="name of the key's ledger")
    action.add_argument("id", help="public id, as `keys list` shows it")

    command = add(commands, "audit", "prove that the books add up; exit code 1 when they do not")
    command.add_argument("--ledger", help="only this ledger")
    add(commands, "doctor", "check what start-up asserts and say what to do; exit code 1 when there is a fault")
    add(commands, "config", "show every setting, its value and where it came from")
    return main_parser


def _add_limits(action: argparse.ArgumentParser) -> None:
    action.add_argument("--rate", help="requests the key may make: N/s, N/min, N/h or N/day (default: the service's)")
    action.add_argument("--burst", type=int, help="requests it may make at once (default: as many as the rate's N)")
    action.add_argument("--concurrency", type=int, help="requests it may have running at once in one worker")


def _limit(settings: Settings, options: argparse.Namespace) -> KeyLimit:
    """Return the limits that the command line gives."""
    quota, window = read_rate(options.rate) if options.rate is not None else (None, None)
    for name, value, most in (
        ("burst", options.burst, BURST_MAX),
        ("concurrency", options.concurrency, CONCURRENCY_MAX),
    ):
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"the {name} is 1 to {most}")
    used = Limit(quota, window, options.burst or quota) if quota and window else None
    if used is None and options.burst:
        used = Limit(*read_rate(settings.rate), options.burst)
    if used is not None and not used.exact:
        raise ValueError("the burst is too large for so slow a rate")
    return KeyLimit(quota, window, options.burst, options.concurrency)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = parser().parse_args(arguments)
    overrides = {name: getattr(options, name, None) for name in ("data_dir", "host", "port")}
    try:
        loaded = load(overrides=overrides)
        # A command that ends says itself what went wrong; whoever sets a level wants to see the way there too.
        is_quiet = options.command != "serve" and loaded.sources["log_level"] == "default"
        configure_logs("error" if is_quiet else loaded.settings.log_level)
        return COMMANDS[options.command](loaded, options)
    except StoreUnavailableError as error:
        return _fail(UNREACHABLE.format(error))
    except (SettingsError, EmbeddedError, StoreError) as error:
        return _fail(str(error))
    except OSError as error:
        if error.filename:
            return _fail(f"{error.strerror}: {error.filename}")
        # No file is concerned: a connection is.
        return _fail(UNREACHABLE.format(error))
    except asyncpg.InterfaceError as error:
        return _fail(f"the address of Postgres is refused: {error}")
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
    with listener, open_target(settings, redis=True, serving=True) as target:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        text = f"Tallystick serves at {url}"
        if target.embedded:
            _run(migrate_target(target, settings))
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
        done = _run(migrate_target(target, loaded.settings))
    print("\n".join(f"applied {line}" for line in done) or "nothing to do")
    return 0


def _keys(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        limit = _limit(loaded.settings, options) if options.action in ("create", "limit") else KeyLimit()
    except ValueError as error:
        return _fail(str(error))

    async def act(target: Target) -> int:
        if target.embedded:
            await migrate_target(target, loaded.settings)
        async with Database(target.database_url, posting_connections=1, reading_connections=1) as database:
            if options.action == "create":
                print(await create_key(database, options.ledger, options.role, limit))
            elif options.action == "limit":
                if not await limit_key(database, options.ledger, options.id, limit):
                    return _fail(f"the ledger {options.ledger} has no key {options.id}")
            elif options.action == "list":
                listed = await list_keys(database, options.ledger)
                if listed is None:
                    return _fail(f"there is no ledger {options.ledger}")
                for key in listed:
                    state = f"revoked {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}" if key.revoked_at else "active"
                    made = f"{key.created_at:%Y-%m-%dT%H:%M:%SZ}"
                    print(key.ledger, key.id, key.role, made, *shown_limit(key.limit), state, sep="\t")
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
        if target.embedded:
            _run(migrate_target(target, loaded.settings))
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
