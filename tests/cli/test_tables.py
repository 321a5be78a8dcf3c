"""Tables are aligned for all scripts, cannot move the cursor, and are coloured only on terminals."""

import asyncio
import os
import pty
import sys
from collections.abc import Mapping

import orjson
import pytest

from server.process.commands.tables import ALIGNED_ROWS_MAX, Column, printable, say_listing, say_record, width
from tests.support.command import environment

COLUMNS = (Column("id"), Column("amount", right=True), Column("state"))
ROWS = [
    {"id": "Größe", "amount": 5, "state": "active"},
    {"id": "日本", "amount": 12_345, "state": None},
    {"id": "e\u0301x", "amount": -1, "state": "revoked yesterday"},
]


def test_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Wide and combining characters count by their width on the screen; empty cells show a dash."""
    say_listing(COLUMNS, ROWS, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "ID     AMOUNT  STATE",
        "Größe       5  active",
        "日本    12345  -",
        "e\u0301x         -1  revoked yesterday",
    ]


def test_nothing_to_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Without rows a table has its headings, and JSON is an empty array."""
    say_listing(COLUMNS, [], as_json=False)
    say_listing(COLUMNS, [], as_json=True)
    assert capsys.readouterr().out == "ID  AMOUNT  STATE\n[]\n"


def test_rows_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A long list is aligned in parts, under one heading."""
    say_listing((Column("n"),), ({"n": number} for number in range(2 * ALIGNED_ROWS_MAX)), as_json=False)
    assert capsys.readouterr().out.split() == ["N", *map(str, range(2 * ALIGNED_ROWS_MAX))]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has all members unchanged."""
    say_listing(COLUMNS, ROWS, as_json=True)
    say_record(COLUMNS, ROWS[1], as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert orjson.loads("".join(lines[:3])) == ROWS
    assert orjson.loads(lines[3]) == ROWS[1]


def test_nothing_moves_the_cursor() -> None:
    """Control characters, direction marks and lone surrogates are escaped."""
    assert printable("a\x1b[31m\r\n\t\x00\u202eb\u2028\ud800") == r"a\x1b[31m\r\n\t\x00\u202eb\u2028\ud800"
    assert [printable(value) for value in (None, "", True, False, 0)] == ["-", "-", "yes", "no", "0"]
    assert [width(text) for text in ("abc", "日本", "e\u0301", "🙂")] == [3, 4, 1, 2]


PROGRAM = f"""
from server.process.commands.exits import open_descriptors
from server.process.commands.tables import Column, say_listing
open_descriptors()
say_listing((Column("id"), Column("state")), {ROWS!a}, as_json=False)
"""


async def printed(settings: Mapping[str, str], *, terminal: bool) -> str:
    """Return what a process prints to a terminal or into a pipe."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM), stdout=writer, env={**environment({}), "TERM": "xterm", **settings}
        )
        assert await child.wait() == 0
        return os.read(reader, 65_536).decode()
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("settings", "terminal", "coloured"),
    [
        pytest.param({}, True, True, id="a terminal"),
        pytest.param({}, False, False, id="a pipe"),
        pytest.param({"NO_COLOR": "1"}, True, False, id="NO_COLOR"),
        pytest.param({"NO_COLOR": ""}, True, True, id="an empty NO_COLOR"),
        pytest.param({"TERM": "dumb"}, True, False, id="a dumb terminal"),
        pytest.param({"TERM": ""}, True, False, id="no kind of terminal"),
    ],
)
async def test_colour(settings: dict[str, str], terminal: bool, coloured: bool) -> None:
    """Headings and bad states are coloured on terminals, unless the environment forbids it."""
    said = await printed({"LC_ALL": "C.UTF-8", **settings}, terminal=terminal)
    assert ("\033[1mID" in said, "\033[31mrevoked yesterday\033[0m" in said) == (coloured, coloured)
    assert coloured or "\033" not in said


async def test_a_locale_without_letters() -> None:
    """Characters that the locale cannot show are escaped, and counted with their escapes."""
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    lines = (await printed(ascii_locale, terminal=False)).splitlines()
    assert [line.rindex("  ") for line in lines] == [len(r"\u65e5\u672c")] * 4
