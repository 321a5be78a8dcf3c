"""How listings show API keys; those of a whole database also show the ledger of each key."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from server.process.commands.tables import Column, Row, printable, say_json, say_listing


def _state(row: Row) -> str:
    """Return whether a key is active, expires, has expired or is revoked."""
    if row["revoked_at"] is not None:
        return f"revoked {printable(row['revoked_at'])}"
    if row["expires_at"] is None:
        return "active"
    word = "expires" if row["expires_at"] > datetime.now(UTC) else "expired"
    return f"{word} {printable(row['expires_at'])}"


def _accounts(row: Row) -> str | None:
    return None if row["accounts"] is None else ",".join(row["accounts"])


KEYS: Final = (
    Column("id"),
    Column("role"),
    Column("created_at"),
    Column("rate", right=True),
    Column("burst", right=True),
    Column("concurrency", right=True),
    Column("accounts", show=_accounts),
    Column("last_used_at"),
    Column("state", show=_state),
    Column("description"),
)
KEYS_OF_LEDGERS: Final = (Column("ledger"), *KEYS)


def say_key(columns: Sequence[Column], key: Row, *, as_json: bool) -> None:
    """
    Print one key as a table with one row, or as a JSON object.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if as_json:
        say_json(key)
    else:
        say_listing(columns, [key], as_json=False)
