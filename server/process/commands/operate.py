"""The commands that look at the books or change who may, and end."""

import argparse
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import uvloop

from server.gate.limits import BURST_MAX, CONCURRENCY_MAX, Limit, read_rate
from server.process.commands.audit import report_audit
from server.process.commands.doctor import examine
from server.process.commands.exits import EXIT_FAULTS, fail
from server.process.commands.keys import KeyLimit, create_key, limit_key, list_keys, revoke_key, shown_limit
from server.process.commands.target import Target, migrate_target, open_target
from server.settings import Loaded, Settings
from server.store.postgres import Database
from server.store.readiness import UNMIGRATED, explain_refusal
from server.telemetry.logs import configure_logs

T = TypeVar("T")


def operate(loaded: Loaded, options: argparse.Namespace) -> int:
    """Run one of COMMANDS and return its exit code."""
    # A command that ends says itself what went wrong; whoever sets a level wants to see the way there too.
    configure_logs("error" if loaded.sources["log_level"] == "default" else loaded.settings.log_level)
    return COMMANDS[options.command](loaded, options)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


def _key_limit(settings: Settings, options: argparse.Namespace) -> KeyLimit:
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


def _migrate(loaded: Loaded, _: argparse.Namespace) -> int:
    with open_target(loaded.settings) as target:
        done = _run(migrate_target(target, loaded.settings))
    print("\n".join(f"applied {line}" for line in done) or "nothing to do")
    return 0


def _keys(loaded: Loaded, options: argparse.Namespace) -> int:
    try:
        limit = _key_limit(loaded.settings, options) if options.action in ("create", "limit") else KeyLimit()
    except ValueError as error:
        return fail(str(error))

    async def act(target: Target) -> int:
        if target.embedded:
            await migrate_target(target, loaded.settings)
        async with Database(target.database_url, posting_connections=1, reading_connections=1) as database:
            if options.action == "create":
                print(await create_key(database, options.ledger, options.role, limit))
            elif options.action == "limit":
                if not await limit_key(database, options.ledger, options.id, limit):
                    return fail(f"the ledger {options.ledger} has no key {options.id}")
            elif options.action == "list":
                listed = await list_keys(database, options.ledger)
                if listed is None:
                    return fail(f"there is no ledger {options.ledger}")
                for key in listed:
                    state = f"revoked {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}" if key.revoked_at else "active"
                    made = f"{key.created_at:%Y-%m-%dT%H:%M:%SZ}"
                    print(key.ledger, key.id, key.role, made, *shown_limit(key.limit), state, sep="\t")
            elif not await revoke_key(database, options.ledger, options.id):
                return fail(f"the ledger {options.ledger} has no key {options.id}")
        return 0

    with open_target(loaded.settings) as target:
        try:
            return _run(act(target))
        except asyncpg.CheckViolationError:
            return fail("a ledger's name has 1 to 64 letters, digits, and . : _ - after the first")
        except UNMIGRATED as error:
            return fail(explain_refusal(error))


def _audit(loaded: Loaded, options: argparse.Namespace) -> int:
    metrics = None if options.metrics is None else Path(options.metrics)
    with open_target(loaded.settings) as target:
        if target.embedded:
            _run(migrate_target(target, loaded.settings))
        return 0 if _run(report_audit(target.database_url, options.ledger, metrics)) else EXIT_FAULTS


def _doctor(loaded: Loaded, _: argparse.Namespace) -> int:
    with open_target(loaded.settings, redis=True) as target:
        findings = _run(examine(loaded.settings, target))
    for finding in findings:
        print(f"{'FAULT' if finding.faults else 'ok':6}{finding.subject}")
        for fault in finding.faults:
            print(f"      - {fault}")
    return EXIT_FAULTS if any(finding.faults for finding in findings) else 0


COMMANDS = {"migrate": _migrate, "keys": _keys, "audit": _audit, "doctor": _doctor}
