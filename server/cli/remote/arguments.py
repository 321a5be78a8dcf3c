"""The arguments that several commands against a server share, and functions that read them."""

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from server.cli.remote.amounts import read_amount, read_currency
from server.process.commands.exits import complain
from server.process.commands.tables import Column, Row, say_listing

if TYPE_CHECKING:
    import msgspec

# Most rows that are shown by default: a few screens.
ROWS_DEFAULT: Final = 100
# Most rows that can be asked for; `all` has no limit.
ROWS_MAX: Final = 1_000_000
# The word for no floor or no ceiling.
NO_LIMIT: Final = "none"


def add_rows(command: argparse.ArgumentParser) -> None:
    """Add the argument for how many rows are shown."""
    text = f"show at most this many, or all (default: {ROWS_DEFAULT})"
    command.add_argument("--limit", type=_rows, default=ROWS_DEFAULT, metavar="N", help=text)


def add_period(command: argparse.ArgumentParser, what: str) -> None:
    """Add the arguments for the beginning and end of a period."""
    command.add_argument("--from", dest="since", type=instant, metavar="TIME", help=f"only {what} from this time on")
    command.add_argument("--to", dest="until", type=instant, metavar="TIME", help=f"only {what} before this time")


def add_metadata(command: argparse.ArgumentParser, text: str) -> None:
    """Add the argument for metadata, given once for each entry."""
    command.add_argument("--metadata", type=_entry, action="append", metavar="NAME=VALUE", help=text)


def add_minor(command: argparse.ArgumentParser) -> None:
    """Add the argument that says that amounts are in minor units."""
    command.add_argument("--minor", action="store_true", help="amounts are in minor units: 1250 for 12.50 EUR")


def add_key(command: argparse.ArgumentParser) -> None:
    """Add the argument for the idempotency key of a payment."""
    text = "idempotency key: what is sent again under the same key is done only once (default: a new key)"
    command.add_argument("--key", help=text)


def metadata(options: argparse.Namespace) -> dict[str, str]:
    """Return the given entries of metadata; if a name is given twice, the last entry counts."""
    return dict(options.metadata or ())


def instant(text: str) -> datetime:
    """
    Return the instant that a text names; a day means its beginning in UTC.

    Raises:
        ArgumentTypeError: The text names neither an instant nor a day.
    """
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        found = datetime.fromisoformat(text.upper())
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError("name an instant as 2026-01-31T12:00:00Z, or a day as 2026-01-31")


def read_limit(text: str | None, currency: str, *, minor: bool) -> int | None:
    """
    Return the floor or ceiling of an account, or None for no limit.

    Raises:
        ValueError: The text is not an amount.
    """
    if text is None or text == NO_LIMIT:
        return None
    return read_amount(text, read_currency(currency), minor=minor, signed=True)


def row(answer: "msgspec.Struct") -> dict[str, Any]:
    """Return the members of an answer."""
    import msgspec

    members: dict[str, Any] = msgspec.to_builtins(answer, builtin_types=(datetime,))
    return members


def say_answers(columns: Sequence[Column], answers: "Iterable[msgspec.Struct]", options: argparse.Namespace) -> None:
    """
    Print the items of a list, up to the number of rows that the command line asks for.

    Raises:
        OutputError: Standard output cannot be written.
    """
    more = False

    def wanted() -> Iterator[Row]:
        nonlocal more
        left = iter(answers)
        yield from map(row, islice(left, options.limit))
        more = options.limit is not None and next(left, None) is not None

    say_listing(columns, wanted(), as_json=options.json)
    if more:
        complain(f"tallystick: there are more than these {options.limit}: use --limit N or --limit all")


def position(text: str) -> int:
    """
    Return the position in the feed that a text names.

    Raises:
        ArgumentTypeError: The text is not a position.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError("a position is a number, 0 or more")
    return int(text)


def _rows(text: str) -> int | None:
    if text == "all":
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text, re.ASCII) or not 1 <= int(text) <= ROWS_MAX:
        raise argparse.ArgumentTypeError(f"a limit is 1 to {ROWS_MAX}, or all")
    return int(text)


def _entry(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError("write metadata as NAME=VALUE")
    return name, value
