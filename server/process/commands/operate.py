"""Runs the commands migrate, keys, sinks, audit, doctor, export and import; each imports what it needs when it runs."""

import argparse
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import msgspec
import uvloop

from server.process.commands.exits import EXIT_FAULTS, fail, say
from server.process.commands.ledgers import check_ledger
from server.process.commands.target import Action, Target, migrate_target, open_stores, open_target
from server.settings import Loaded, Settings
from server.store.postgres import Database
from server.store.readiness import UNMIGRATED, explain_refusal
from server.telemetry.logs import configure_logs

T = TypeVar("T")

# Commands for which --data-dir can name an embedded Redis beside another PostgreSQL.
WITH_REDIS: Final = frozenset({"doctor", "import"})


def operate(loaded: Loaded, options: argparse.Namespace) -> int:
    """Run one of COMMANDS and return its exit code."""
    # A command reports its own errors, so show less serious log lines only to operators who set a level.
    configure_logs("error" if loaded.sources["log_level"] == "default" else loaded.settings.log_level)
    # Of these two places one would be ignored, and the command would change the other one.
    elsewhere = loaded.settings.database_url is not None
    if elsewhere and loaded.sources["data_dir"] == "--data-dir" and options.command not in WITH_REDIS:
        return fail(f"--data-dir and {loaded.sources['database_url']} name two databases: do not give both")
    return COMMANDS[options.command](loaded, options)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


def _migrate(loaded: Loaded, _: argparse.Namespace) -> int:
    with open_target(loaded.settings, making=True) as target:
        done = _run(migrate_target(target, loaded.settings))
    say("\n".join(f"applied {line}" for line in done) or "nothing to do")
    return 0


def _keys(loaded: Loaded, options: argparse.Namespace) -> int:
    from server.process.commands.keys import keys_action  # noqa: PLC0415

    try:
        check_ledger(options.ledger)
        act = keys_action(loaded.settings, options)
    except ValueError as error:
        return fail(str(error))

    return _act(loaded.settings, act)


def _sinks(loaded: Loaded, options: argparse.Namespace) -> int:
    from server.process.commands.sinks import sinks_action  # noqa: PLC0415

    try:
        check_ledger(getattr(options, "ledger", None))
        act = sinks_action(options)
    except ValueError as error:
        return fail(str(error))
    return _act(loaded.settings, act)


def _act(settings: Settings, act: Action) -> int:
    """Do an action on the database that the settings name, and return its exit code."""

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


def _audit(loaded: Loaded, options: argparse.Namespace) -> int:
    from server.process.commands.audit import metrics_file, report_audit  # noqa: PLC0415

    try:
        check_ledger(options.ledger)
        metrics = None if options.metrics is None else metrics_file(options.metrics)
    except ValueError as error:
        return fail(str(error))
    with open_target(loaded.settings) as target:
        if target.embedded:
            _run(migrate_target(target, loaded.settings))
        return (
            0 if _run(report_audit(target.database_url, options.ledger, metrics, as_json=options.json)) else EXIT_FAULTS
        )


def _doctor(loaded: Loaded, options: argparse.Namespace) -> int:
    from server.process.commands.doctor import examine, say_findings  # noqa: PLC0415

    with open_stores(loaded.settings) as stores:
        findings = _run(examine(loaded.settings, stores))
    say_findings(findings, as_json=options.json)
    return EXIT_FAULTS if any(finding.faults for finding in findings) else 0


def _export(loaded: Loaded, options: argparse.Namespace) -> int:
    from server.process.commands.books import FORMATS, export_books, read_instant  # noqa: PLC0415

    try:
        check_ledger(options.ledger)
        since, until = (None if text is None else read_instant(text) for text in (options.since, options.until))
    except ValueError as error:
        return fail(str(error))
    layout = FORMATS[options.format]
    with open_target(loaded.settings) as target:
        if target.embedded:
            _run(migrate_target(target, loaded.settings))
        try:
            _run(
                export_books(
                    target.database_url, options.ledger, layout=layout, file=options.output, since=since, until=until
                )
            )
        except UNMIGRATED as error:
            return fail(explain_refusal(error))
    return 0


def _import(loaded: Loaded, options: argparse.Namespace) -> int:
    from server.process.books.lines import LineError  # noqa: PLC0415
    from server.process.commands.books import FileError, import_books, open_checked  # noqa: PLC0415

    try:
        check_ledger(options.ledger)
    except ValueError as error:
        return fail(str(error))
    settings = loaded.settings
    try:
        with open_checked(options.file) as file, open_target(settings, redis=True) as target:
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
