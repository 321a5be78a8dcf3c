"""Prints listings: aligned tables for people, JSON for programs, and colour only on terminals."""

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from server.process.commands.exits import say, say_bytes

Row = Mapping[str, Any]

# The text between the columns of a table.
GAP: Final = "  "
# The text of an empty cell: every cell has some text, so that scripts can count the words of a line.
NONE: Final = "-"
# Most rows that are aligned together and held in memory at a time, because a listing can have any length.
ALIGNED_ROWS_MAX: Final = 1_000

_BOLD: Final = "\033[1m"
_RED: Final = "\033[31m"
_PLAIN: Final = "\033[0m"
# First words of cells that are shown in red, because people should not overlook them.
_ALARMING: Final = frozenset({"FAULT", "closed", "disabled", "expired", "failing", "halted", "refused", "revoked"})


class Column(NamedTuple):
    """
    A column of a table.

    Attributes:
        name: The member of each row that it shows; the heading is made from it.

        right: Whether its cells are aligned to the right, like numbers.

        show: Returns the cell of a row, if that is not just the member.

        least: Its least width. In an endless listing later rows may need more width than those shown so far.
    """

    name: str
    right: bool = False
    show: Callable[[Row], object] | None = None
    least: int = 0

    @property
    def heading(self) -> str:
        """The heading of the column."""
        return self.name.upper().replace("_", " ")

    def cell(self, row: Row) -> str:
        """Return the text of the column's cell in a row."""
        return printable(self.show(row) if self.show else row.get(self.name))


def say_listing(columns: Sequence[Column], rows: Iterable[Row], *, as_json: bool) -> None:
    """
    Print rows as a table with headings, or as a JSON array with all members of each row.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if as_json:
        _say_array(rows)
        return
    heading: list[list[str]] = [[column.heading for column in columns]]
    for block in _blocks(rows):
        _say_aligned(columns, heading, [[column.cell(row) for column in columns] for row in block])
        heading = []


def say_record(columns: Sequence[Column], row: Row, *, as_json: bool) -> None:
    """
    Print one row as a line for each column, or as a JSON object with all its members.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if as_json:
        say_json(row)
        return
    wide = max(len(column.name) for column in columns)
    for column in columns:
        say(f"{_bold(f'{column.name:{wide}}')}{GAP}{marked(column.cell(row))}")


def say_line(columns: Sequence[Column], row: Row, *, as_json: bool) -> None:
    """
    Print a row as one line of an endless listing.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if as_json:
        say_json(row)
    else:
        _say_aligned(columns, [], [[column.cell(row) for column in columns]])


def say_json(value: object) -> None:
    """
    Print a value as one line of JSON, in UTF-8 whatever the locale.

    Raises:
        OutputError: Standard output cannot be written.
    """
    say_bytes(_json(value) + b"\n")


def printable(value: object) -> str:
    """
    Return a value as the text of a cell.

    Control characters are escaped, because text from callers must not control the reader's terminal. Characters that
    the encoding of standard output lacks are escaped too, before widths are computed.
    """
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_places(character) for character in text)


def marked(cell: str) -> str:
    """Return a cell, in red if people should not overlook it."""
    first, _, _ = cell.partition(" ")
    return f"{_RED}{cell}{_PLAIN}" if first in _ALARMING and coloured() else cell


def coloured() -> bool:
    """Return whether standard output is a terminal that shows colour and NO_COLOR is not set."""
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") not in ("", "dumb")
    )


def _places(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in blocks; the first one may be empty, so that its headings are printed."""
    left = iter(rows)
    yield list(islice(left, ALIGNED_ROWS_MAX))
    while block := list(islice(left, ALIGNED_ROWS_MAX)):
        yield block


def _say_aligned(columns: Sequence[Column], heading: list[list[str]], cells: list[list[str]]) -> None:
    """Print aligned lines; cells of the last column are not padded."""
    lines = heading + cells
    widths = [max(column.least, *(width(line[n]) for line in lines)) for n, column in enumerate(columns)]
    for line in lines:
        padded = [
            _padded(text, wide, right=column.right, last=column is columns[-1])
            for column, text, wide in zip(columns, line, widths, strict=True)
        ]
        say(_bold(GAP.join(padded)) if line in heading else GAP.join(map(marked, padded)))


def _padded(text: str, wide: int, *, right: bool, last: bool) -> str:
    blanks = " " * (wide - width(text))
    if right:
        return blanks + text
    return text if last else text + blanks


def _bold(text: str) -> str:
    return f"{_BOLD}{text}{_PLAIN}" if coloured() else text


def _say_array(rows: Iterable[Row]) -> None:
    """Print an array row by row; if the output is cut off, it is not valid JSON and cannot pass for complete."""
    begin = b"["
    for row in rows:
        say_bytes(begin + _json(row))
        begin = b",\n"
    say_bytes(b"[]\n" if begin == b"[" else b"]\n")


def _json(value: object) -> bytes:
    # Import it only when needed: most commands print no JSON.
    import orjson  # noqa: PLC0415

    return orjson.dumps(value, default=_instant, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _instant(value: object) -> str:
    """Return an instant in the format of the API."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    raise TypeError
