"""Writes books as an hledger journal: one transaction for each transfer that moved money."""

import re
from datetime import UTC
from typing import Final

from server.http.render import instant
from server.ledger.export import ExportedAccount, ExportedTransfer
from server.process.books.columns import Format

HEAD: Final = b"; Written by `tallystick export`. Amounts are whole numbers of minor units.\n\n"
# Kinds of transfers that move money. Holds only reserve it, and voids and expiries only release it.
MOVES: Final = frozenset({"transfer", "capture", "reversal"})
# A commodity needs no quotes if it consists of letters only.
_LETTERS: Final = re.compile(r"[A-Z]+")
# Replaces characters with a meaning in the first line of a transaction: those of a comment, a payee and a code.
_SYNTAX: Final = str.maketrans({";": ",", "|": "/", "(": "[", ")": "]"})


def account_directive(account: ExportedAccount) -> bytes:
    """Return the line that declares an account."""
    return f"account {account.id}\n".encode()


def transaction(transfer: ExportedTransfer) -> bytes:
    """Return a transfer as a transaction on the day it took effect, or as a comment if it moved nothing."""
    lines = _transaction(transfer) if transfer.kind in MOVES else _comment(transfer)
    return ("\n" + "\n".join(lines) + "\n").encode()


def _transaction(transfer: ExportedTransfer) -> list[str]:
    amount = f"{transfer.amount} {_commodity(transfer.currency)}"
    # The day is in UTC, like all instants of the API.
    day = transfer.effective_at.astimezone(UTC).date().isoformat()
    text = _one_line(transfer.description or transfer.reference or transfer.kind).translate(_SYNTAX)
    return [
        f"{day} * {text}".rstrip(),
        *_tags(transfer),
        f"    {transfer.destination}  {amount}",
        f"    {transfer.source}  -{amount}",
    ]


def _tags(transfer: ExportedTransfer) -> list[str]:
    tags = {
        "id": str(transfer.id),
        "key": transfer.key,
        "kind": transfer.kind,
        "parent": transfer.parent,
        "reference": transfer.reference,
        "effective_at": instant(transfer.effective_at),
        "created_at": None if transfer.created_at is None else instant(transfer.created_at),
        "metadata": None if transfer.metadata == "{}" else transfer.metadata,
    }
    return [f"    ; {name}: {_one_line(value)}" for name, value in tags.items() if value is not None]


def _comment(transfer: ExportedTransfer) -> list[str]:
    parent = "" if transfer.parent is None else f" of {transfer.parent}"
    return [
        f"; {instant(transfer.effective_at)} {transfer.kind}{parent}: {transfer.amount} {transfer.currency} "
        f"from {transfer.source} to {transfer.destination}" + ("" if transfer.key is None else f", key {transfer.key}")
    ]


def _commodity(currency: str) -> str:
    return currency if _LETTERS.fullmatch(currency) else f'"{currency}"'


def _one_line(text: str) -> str:
    """Return a text with a space in place of each character that ends a line or cannot be printed."""
    return "".join(character if character.isprintable() else " " for character in text)


HLEDGER: Final = Format(HEAD, account_directive, transaction)
