"""The commands migrate, keys, sinks, audit, doctor, export and import."""

import argparse
import re
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvloop

from server.app import default_limits
from server.gate.keys import read_key_name
from server.gate.limits import BURST_MAX, CONCURRENCY_MAX, read_rate
from server.process.books.lines import LineError
from server.process.commands.audit import report_audit
from server.process.commands.books import (
    FORMATS,
    FileError,
    export_books,
    import_books,
    open_checked,
    read_instant,
)
from server.process.commands.doctor import examine, say_findings
from server.process.commands.exits import EXIT_FAULTS, OutputError, check_output, fail, say
from server.process.commands.keys import (
    LEDGER_NAME,
    LIMITS,
    KeyLimit,
    create_key,
    key_ledger,
    limit_key,
    list_keys,
    revoke_key,
    revoke_whole_key,
    shown_key,
)
from server.process.commands.sinks import sinks_action
from server.process.commands.target import Action, Target, migrate_target, open_target
from server.settings import Loaded, Settings
from server.store.postgres import Database
from server.store.readiness import UNMIGRATED, explain_refusal
from server.telemetry.logs import configure_logs

# The word that resets a limit of a key to the service's default.
DEFAULT: Final = "default"

T = TypeVar("T")


def operate(loaded: Loaded, options: argparse.Namespace) -> int:
    """Run one of COMMANDS and return its exit code."""
    # A command reports its own errors; logs are shown only to operators who set a level.
    configure_logs("error" if loaded.sources["log_level"] == "default" else loaded.settings.log_level)
    return COMMANDS[options.command](loaded, options)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


def _key_limit(options: argparse.Namespace) -> tuple[KeyLimit, set[str]]:
    """
    Return the limits that the command line gives, and which it names.

    Raises:
        ValueError: One is none.
    """
    given = {name: getattr(options, name) for name in sorted(LIMITS)}
    named = {name for name, text in given.items() if text is not None}
    quota, window = (None, None) if given["rate"] in (None, DEFAULT) else read_rate(given["rate"])
    burst = _number("burst", given["burst"], BURST_MAX)
    return KeyLimit(quota, window, burst, _number("concurrency", given["concurrency"], CONCURRENCY_MAX)), named


def _number(name: str, text: str | None, most: int) -> int | None:
    if text is None or text == DEFAULT:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise ValueError(f"the {name} is 1 to {most}")
    return int(text)


def _migrate(loaded: Loaded, _: argparse.Namespace) -> int:
    with open_target(loaded.settings) as target:
        done = _run(migrate_target(target, loaded.settings))
    say("\n".join(f"applied {line}" for line in done) or "nothing to do")
    return 0


def _keys(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        _check_ledger(options.ledger)
        act = KEY_ACTIONS[options.action](loaded.settings, options)
    except ValueError as error:
        return fail(str(error))

    return _act(loaded.settings, act)


def _sinks(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        _check_ledger(getattr(options, "ledger", None))
        act = sinks_action(options)
    except ValueError as error:
        return fail(str(error))
    return _act(loaded.settings, act)


def _act(settings: Settings, act: Action) -> int:
    """Do it on the database that the settings name, and return the exit code."""

    async def run(target: Target) -> int:
        if target.embedded:
            await migrate_target(target, settings)
        async with Database(target.database_url, posting_connections=1, reading_connections=1) as database:
            return await act(database)

    with open_target(settings) as target:
        try:
            return _run(run(target))
        except UNMIGRATED as error:
            return fail(explain_refusal(error))


def _create(settings: Settings, options: argparse.Namespace) -> Action:
    limit, _ = _key_limit(options)
    limit.check(default_limits(settings).key)
    # What cannot be shown is not made.
    check_output()

    async def act(database: Database) -> int:
        key = await create_key(database, options.ledger, options.role, limit)
        try:
            say(key)
        except OutputError as error:
            await revoke_whole_key(database, key)
            raise OutputError(f"{error}; the key that was made is revoked") from error
        return 0

    return act


def _limit(settings: Settings, options: argparse.Namespace) -> Action:
    of_ledger, key_id = _named_key(options)
    limit, named = _key_limit(options)
    if not named:
        raise ValueError("name what to change: --rate, --burst or --concurrency; the word default takes the service's")
    default = default_limits(settings).key

    async def act(database: Database) -> int:
        ledger = await key_ledger(database, options.ledger, of_ledger)
        try:
            key = (
                None
                if ledger is None
                else await limit_key(database, ledger, key_id, limit, named=named, default=default)
            )
        except ValueError as error:
            return fail(str(error))
        if key is None:
            return _no_key(options, key_id)
        say(shown_key(key))
        return 0

    return act


def _list(_: Settings, options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        listed = await list_keys(database, options.ledger)
        if listed is None:
            return fail(f"there is no ledger {options.ledger}")
        for key in listed:
            say(shown_key(key))
        return 0

    return act


def _revoke(_: Settings, options: argparse.Namespace) -> Action:
    of_ledger, key_id = _named_key(options)

    async def act(database: Database) -> int:
        ledger = await key_ledger(database, options.ledger, of_ledger)
        if ledger is None or not await revoke_key(database, ledger, key_id):
            return _no_key(options, key_id)
        return 0

    return act


KEY_ACTIONS: Final[Mapping[str, Callable[[Settings, argparse.Namespace], Action]]] = {
    "create": _create,
    "limit": _limit,
    "list": _list,
    "revoke": _revoke,
}


def _named_key(options: argparse.Namespace) -> tuple[int | None, str]:
    """
    Return the number of the key's ledger, if the whole key was given, and its public id.

    Raises:
        ValueError: The text is not a key, or its ledger is missing.
    """
    of_ledger, key_id = read_key_name(options.id)
    if of_ledger is None and options.ledger is None:
        raise ValueError("a public id needs --ledger beside it")
    return of_ledger, key_id


def _no_key(options: argparse.Namespace, key_id: str) -> int:
    place = "the database" if options.ledger is None else f"the ledger {options.ledger}"
    return fail(f"{place} has no key {key_id}")


def _check_ledger(name: str | None) -> None:
    """
    Check the name of a ledger.

    Raises:
        ValueError: The name is not valid; the message does not repeat it, because it may be a secret.
    """
    if name is not None and not LEDGER_NAME.fullmatch(name):
        raise ValueError("a ledger's name has 1 to 64 letters (A to Z, a to z), digits, and . : _ - after the first")


def _audit(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        _check_ledger(options.ledger)
    except ValueError as error:
        return fail(str(error))
    metrics = None if options.metrics is None else Path(options.metrics)
    with open_target(loaded.settings) as target:
        if target.embedded:
            _run(migrate_target(target, loaded.settings))
        return (
            0 if _run(report_audit(target.database_url, options.ledger, metrics, as_json=options.json)) else EXIT_FAULTS
        )


def _doctor(loaded: Loaded, options: argparse.Namespace) -> int:
    with open_target(loaded.settings, redis=True) as target:
        findings = _run(examine(loaded.settings, target))
    say_findings(findings, as_json=options.json)
    return EXIT_FAULTS if any(finding.faults for finding in findings) else 0


def _export(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        _check_ledger(options.ledger)
        since, until = (None if text is None else read_instant(text) for text in (options.since, options.until))
    except ValueError as error:
        return fail(str(error))
    layout = FORMATS[options.format]
    file = None if options.output is None else Path(options.output)
    with open_target(loaded.settings) as target:
        if target.embedded:
            _run(migrate_target(target, loaded.settings))
        try:
            _run(export_books(target.database_url, options.ledger, layout=layout, file=file, since=since, until=until))
        except UNMIGRATED as error:
            return fail(explain_refusal(error))
    return 0


def _import(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        _check_ledger(options.ledger)
    except ValueError as error:
        return fail(str(error))
    settings = loaded.settings
    try:
        with open_checked(Path(options.file)) as file, open_target(settings, redis=True) as target:
            if target.embedded:
                _run(migrate_target(target, settings))
            found = msgspec.structs.replace(settings, database_url=target.database_url, redis_url=target.redis_url)
            _run(import_books(found, options.ledger, file))
    except UNMIGRATED as error:
        return fail(explain_refusal(error))
    except LineError as error:
        fail(f"{options.file}, {error}")
        return EXIT_FAULTS
    except FileError as error:
        return fail(str(error))
    return 0


COMMANDS = {
    "migrate": _migrate,
    "keys": _keys,
    "sinks": _sinks,
    "audit": _audit,
    "doctor": _doctor,
    "export": _export,
    "import": _import,
}
