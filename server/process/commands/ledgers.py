"""Checks names of ledgers in the arguments of commands."""

import re
from typing import Final

# The same pattern as in the database.
LEDGER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}")


def check_ledger(name: str | None) -> None:
    """
    Check the name of a ledger.

    Raises:
        ValueError: The name is not valid; the message does not repeat it, because it may be a secret.
    """
    if name is not None and not LEDGER_NAME.fullmatch(name):
        raise ValueError("a ledger's name has 1 to 64 letters (A to Z, a to z), digits, and . : _ - after the first")
