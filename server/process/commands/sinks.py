"""The command `sinks`: manages sinks, the brokers that are sent every event."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from server.events.sinks.options import read_options
from server.events.sinks.store import Lag, Refused, SinkError, SinkRow, Sinks
from server.gate.key_store import ledger_id
from server.process.commands.exits import fail, say
from server.process.commands.ledgers import LEDGER_NAME
from server.process.commands.tables import Column, say_listing
from server.process.commands.target import Action
from server.store.postgres import Database

LISTED: Final = tuple(map(Column, ("name", "kind", "ledger", "state", "created", "target")))
STATED: Final = (
    Column("name"),
    Column("state"),
    Column("lag_events", right=True),
    Column("lag_seconds", right=True),
    *map(Column, ("failing_since", "error_at", "refused", "error")),
)


def sinks_action(options: argparse.Namespace) -> Action:
    """
    Return the action that the command line asks for.

    Raises:
        ValueError: An argument is not valid.
    """
    name = getattr(options, "name", None)
    if name is not None and not LEDGER_NAME.fullmatch(name):
        raise ValueError("a sink's name has 1 to 64 letters (A to Z, a to z), digits, and . : _ - after the first")
    return ACTIONS[options.action](options)


def _create(options: argparse.Namespace) -> Action:
    given = read_options(options.kind, vars(options))
    ledger = options.ledger

    async def act(database: Database) -> int:
        of_ledger = None if ledger is None else await ledger_id(database, ledger)
        if ledger is not None and of_ledger is None:
            return fail(f"there is no ledger {ledger}")
        from_now = options.from_position == "now"
        try:
            await Sinks(database).create(options.name, options.kind, of_ledger, given, from_now=from_now)
        except SinkError as error:
            return fail(str(error))
        return 0

    return act


def _list(options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        say_listing(LISTED, map(_described, await Sinks(database).rows()), as_json=options.json)
        return 0

    return act


def _status(options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        sinks = Sinks(database)
        shown = [_stated(row, await sinks.lag(row)) for row in await sinks.rows()]
        say_listing(STATED, shown, as_json=options.json)
        return 0

    return act


def _pause(options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        state = await Sinks(database).pause(options.name)
        return _no_sink(options.name) if state is None else 0

    return act


def _resume(options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        found = await Sinks(database).resume(options.name, skip=options.skip)
        if found is None:
            return _no_sink(options.name)
        _, refused = found
        if options.skip:
            say("nothing was refused" if refused is None else f"skipped {_id(refused)}")
        return 0

    return act


def _delete(options: argparse.Namespace) -> Action:
    async def act(database: Database) -> int:
        return 0 if await Sinks(database).delete(options.name) else _no_sink(options.name)

    return act


ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace], Action]]] = {
    "create": _create,
    "list": _list,
    "pause": _pause,
    "resume": _resume,
    "delete": _delete,
    "status": _status,
}


def _no_sink(name: str) -> int:
    return fail(f"there is no sink {name}")


def _id(refused: Refused) -> str:
    return f"{refused.ledger}/{refused.position}"


def _described(row: SinkRow) -> dict[str, Any]:
    """Return how an operator has set up a sink."""
    return {
        "name": row.name,
        "kind": row.kind,
        "ledger": row.ledger,
        "state": row.state,
        "created": row.created_at,
        "target": row.read_options().target,
        "options": orjson.Fragment(row.options),
    }


def _stated(row: SinkRow, lag: Lag) -> dict[str, Any]:
    """Return the state of a sink: how far it is behind, and its last error."""
    refused = None if row.refused_position is None else Refused(row.refused_ledger or "", row.refused_position)
    return {
        "name": row.name,
        "state": row.state,
        "lag_events": lag.events,
        "lag_seconds": round(lag.seconds, 1),
        "failing_since": row.failing_since,
        "error_at": row.error_at,
        "error": row.error,
        "refused": None if refused is None else _id(refused),
    }
