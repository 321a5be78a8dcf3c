"""The commands for an account's history: its entries, its balance at an instant, and its statement."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from server.cli.remote.amounts import shown_amount
from server.cli.remote.arguments import add_period, add_rows, instant, row, say_answers
from server.cli.remote.call import on_server, server
from server.cli.remote.columns import money
from server.cli.words import Commands
from server.process.commands.exits import say
from server.process.commands.tables import Column, Row, say_json, say_listing, say_record

if TYPE_CHECKING:
    from tallystick_client import Tallystick

_BALANCE: Final = (Column("account"), Column("currency"), Column("at"), money("balance"), Column("version"))


def add_commands(actions: Commands) -> None:
    """Add these commands to those of accounts."""
    action = actions.add("entries", "list the entries of an account, newest first", on_server(_entries), server())
    _add_account(action)
    add_period(action, "entries")
    add_rows(action)
    action = actions.add("balance", "show the balance of an account at an instant", on_server(_balance), server())
    _add_account(action)
    action.add_argument("--at", type=instant, metavar="TIME", help="instant or day (default: now)")
    _add_order(action)
    text = "show a period of an account: opening balance, entries oldest first, closing balance"
    action = actions.add("statement", text, on_server(_statement), server())
    _add_account(action)
    add_period(action, "entries")
    _add_order(action)


def _add_account(action: argparse.ArgumentParser) -> None:
    action.add_argument("id", metavar="ACCOUNT", help="id of the account")


def _add_order(action: argparse.ArgumentParser) -> None:
    text = "by the time of posting, or by the time that transfers count for (default: created)"
    action.add_argument("--by", choices=["created", "effective"], help=text)


def _columns(at: str, currency: str) -> tuple[Column, ...]:
    """Return the columns of entries; *currency* is that of their account."""

    def amount(name: str) -> Callable[[Row], object]:
        return lambda entry: shown_amount(entry[name], currency)

    return (
        Column(at),
        Column("kind"),
        Column("counterparty"),
        Column("amount", right=True, show=amount("amount")),
        Column("balance", right=True, show=amount("balance")),
        Column("transfer_id"),
        Column("reference"),
    )


def _entries(client: "Tallystick", options: argparse.Namespace) -> int:
    currency = "" if options.json else client.accounts.get(options.id).currency
    entries = client.accounts.entries(options.id, since=options.since, until=options.until)
    say_answers(_columns("created_at", currency), entries, options)
    return 0


def _balance(client: "Tallystick", options: argparse.Namespace) -> int:
    if options.at is None:
        # The current balance includes everything posted, in either order. The server's clock says what is current, not
        # the clock of this machine.
        account = client.accounts.get(options.id)
        members = ("currency", "balance", "version")
        found = {"account": account.id, "at": None, **{name: getattr(account, name) for name in members}}
    else:
        found = row(client.accounts.balance(options.id, options.at, by=options.by))
    say_record(_BALANCE, found, as_json=options.json)
    return 0


def _statement(client: "Tallystick", options: argparse.Namespace) -> int:
    found = client.accounts.statement(options.id, since=options.since, until=options.until, by=options.by)
    if options.json:
        say_json(row(found))
        return 0
    opening, closing = (shown_amount(n, found.currency) for n in (found.opening_balance, found.closing_balance))
    say(f"opening balance: {opening} {found.currency}")
    at = "effective_at" if found.by == "effective" else "created_at"
    say_listing(_columns(at, found.currency), map(row, found.entries), as_json=False)
    say(f"closing balance: {closing} {found.currency}")
    return 0
