"""The columns in which accounts and transfers are shown to people."""

from collections.abc import Mapping
from typing import Any

from server.cli.remote.amounts import shown_amount
from server.process.commands.tables import Column, Row


def money(name: str) -> Column:
    """Return the column of an amount, for rows that have a currency."""
    return Column(name, right=True, show=lambda row: shown_amount(row[name], row["currency"]))


def shown_metadata(row: Row) -> str:
    """Return metadata on one line."""
    entries: Mapping[str, Any] = row["metadata"]
    return ", ".join(f"{name}={value}" for name, value in entries.items())


METADATA = Column("metadata", show=shown_metadata)

ACCOUNTS = (
    Column("id"),
    Column("currency"),
    money("balance"),
    money("available"),
    money("held_in"),
    money("held_out"),
    Column("closed"),
)
ACCOUNT = (
    Column("id"),
    Column("currency"),
    *map(money, ("balance", "available", "held_in", "held_out", "floor", "ceiling")),
    Column("version"),
    Column("closed"),
    METADATA,
    Column("created_at"),
)
TRANSFERS = (
    Column("id"),
    Column("kind"),
    Column("source"),
    Column("destination"),
    money("amount"),
    Column("currency"),
    Column("created_at"),
    Column("reference"),
)
_TRANSFER = (
    Column("id"),
    Column("kind"),
    Column("state"),
    Column("source"),
    Column("destination"),
    money("amount"),
    Column("currency"),
    Column("parent"),
    money("source_balance"),
    money("destination_balance"),
    Column("effective_at"),
    Column("reference"),
    Column("description"),
    METADATA,
    Column("created_at"),
)


def transfer_columns(row: Row) -> list[Column]:
    """Return the lines that show a transfer, including the state of its hold, its reversals and its problem."""
    columns = list(_TRANSFER)
    hold, problem = row["hold"], row["problem"]
    if hold is not None:
        columns.append(Column("hold", show=lambda _: hold["state"]))
        columns.extend(Column(name, show=_of(hold, name)) for name in ("captured", "remaining"))
        columns.append(Column("expires_at", show=lambda _: hold["expires_at"]))
    if row["reversed"] is not None:
        columns.append(money("reversed"))
    if problem is not None:
        columns.append(Column("problem", show=lambda _: f"{problem['code']}: {problem['detail']}"))
    return columns


def _of(hold: Mapping[str, Any], name: str) -> Any:
    return lambda row: shown_amount(hold[name], row["currency"])
