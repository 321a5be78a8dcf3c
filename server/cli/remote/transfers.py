"""`tallystick transfers` and `tallystick pay`: payments, each sent under one idempotency key."""

import argparse
from typing import TYPE_CHECKING

from server.cli.remote.amounts import read_amount, read_currency
from server.cli.remote.arguments import (
    add_key,
    add_metadata,
    add_minor,
    add_period,
    add_rows,
    instant,
    metadata,
    row,
    say_answers,
)
from server.cli.remote.call import on_server, server
from server.cli.remote.columns import TRANSFERS, transfer_columns
from server.cli.remote.posting import posted
from server.cli.words import Commands
from server.process.commands.exits import EXIT_AWAY, EXIT_ERROR, EXIT_REFUSED, EXIT_UNKNOWN, shown_codes
from server.process.commands.tables import say_record

if TYPE_CHECKING:
    from tallystick_client import Posted, Tallystick

_CODES = shown_codes(EXIT_ERROR, EXIT_REFUSED, EXIT_UNKNOWN, EXIT_AWAY)
KINDS = ("transfer", "hold", "capture", "void", "expiry", "reversal")


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    _add_payment(commands, "pay", "pay an amount: the same as `transfers create`")
    actions = commands.group("transfers", "post, read, capture, void and reverse transfers, on a server")
    action = actions.add("list", "list transfers, newest first", on_server(_list), server())
    action.add_argument("--account", help="only transfers from or to this account")
    action.add_argument("--reference", help="only transfers with this reference")
    action.add_argument("--kind", choices=KINDS, help="only transfers of this kind")
    add_period(action, "transfers posted")
    add_metadata(action, "only transfers with this entry; may be given several times")
    add_rows(action)
    action = actions.add("get", "show a transfer and what has become of it", on_server(_get), server())
    _add_id(action)
    _add_payment(actions, "create", "post a transfer, or a hold")
    action = actions.add("capture", "move what a hold reserves, or part of it", posted(_capture), server())
    _add_id(action, "id of the hold")
    _add_part(action, "all that it still reserves")
    action.add_argument("--keep-rest", action="store_true", help="keep the rest reserved for further captures")
    action = actions.add("void", "release what a hold still reserves", posted(_void), server())
    _add_id(action, "id of the hold")
    add_key(action)
    text = "move back what a transfer or capture has moved, or part of it"
    action = actions.add("reverse", text, posted(_reverse), server())
    _add_id(action, "id of the transfer or capture")
    _add_part(action, "all that has not been moved back yet")


def _add_payment(commands: Commands, name: str, text: str) -> None:
    action = commands.add(name, text, posted(_create), server())
    action.epilog, action.formatter_class = _CODES, argparse.RawDescriptionHelpFormatter
    action.add_argument("source", metavar="SOURCE", help="account that pays")
    action.add_argument("destination", metavar="DESTINATION", help="account that is paid")
    text = "such as 12.50, with no more decimals than ISO 4217 gives the currency"
    action.add_argument("amount", metavar="AMOUNT", help=text)
    action.add_argument("currency", metavar="CURRENCY", help="currency of both accounts, such as EUR")
    add_minor(action)
    add_key(action)
    action.add_argument("--hold", action="store_true", help="only reserve the amount; capture or void it later")
    text = "release a hold after this many seconds (default: a week)"
    action.add_argument("--expires-in", type=int, metavar="SECONDS", help=text)
    text = "past instant or day that it counts for (default: the time of posting)"
    action.add_argument("--effective-at", type=instant, metavar="TIME", help=text)
    action.add_argument("--reference", help="text to find it by, such as an invoice number")
    action.add_argument("--description", help="a sentence for people")
    add_metadata(action, "an entry of its metadata; may be given several times")


def _add_id(action: argparse.ArgumentParser, text: str = "id of the transfer") -> None:
    action.add_argument("id", metavar="TRANSFER", help=text)


def _add_part(action: argparse.ArgumentParser, default: str) -> None:
    action.add_argument("--amount", help=f"how much (default: {default})")
    add_minor(action)
    add_key(action)


def _list(client: "Tallystick", options: argparse.Namespace) -> int:
    transfers = client.transfers.list(
        account=options.account,
        reference=options.reference,
        kind=options.kind,
        since=options.since,
        until=options.until,
        metadata=metadata(options),
    )
    say_answers(TRANSFERS, transfers, options)
    return 0


def _get(client: "Tallystick", options: argparse.Namespace) -> int:
    found = row(client.transfers.get(options.id))
    say_record(transfer_columns(found), found, as_json=options.json)
    return 0


def _create(client: "Tallystick", options: argparse.Namespace, key: str) -> "Posted":
    currency = read_currency(options.currency)
    return client.transfers.create(
        options.source,
        options.destination,
        read_amount(options.amount, currency, minor=options.minor),
        currency,
        idempotency_key=key,
        hold=options.hold,
        expires_in=options.expires_in,
        effective_at=options.effective_at,
        reference=options.reference,
        description=options.description,
        metadata=metadata(options),
    )


def _capture(client: "Tallystick", options: argparse.Namespace, key: str) -> "Posted":
    part = _part(client, options)
    return client.transfers.capture(options.id, part, release_rest=not options.keep_rest, idempotency_key=key)


def _void(client: "Tallystick", options: argparse.Namespace, key: str) -> "Posted":
    return client.transfers.void(options.id, idempotency_key=key)


def _reverse(client: "Tallystick", options: argparse.Namespace, key: str) -> "Posted":
    return client.transfers.reverse(options.id, _part(client, options), idempotency_key=key)


def _part(client: "Tallystick", options: argparse.Namespace) -> int | None:
    """Return the amount from the command line, in the currency of the transfer, or None if none is given."""
    if options.amount is None:
        return None
    currency = "" if options.minor else client.transfers.get(options.id).currency
    return read_amount(options.amount, currency or "", minor=options.minor)
