"""Books are exported in order and completely, to the requested place."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from server.ledger.export import ExportedTransfer, in_order
from server.process.commands.books import read_instant
from server.process.commands.exits import EXIT_NO_READER
from server.process.commands.progress import Bar
from tests.books.book import export
from tests.support.command import END_SECONDS, call, environment, run
from tests.support.service import in_process

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def row(
    number: int, sides: str, versions: tuple[int | None, int | None], parent: str | None = None
) -> ExportedTransfer:
    """Return a transfer with its number as id and its key."""
    return ExportedTransfer(
        place=NOW,
        id=UUID(int=number),
        key=str(number),
        kind="transfer",
        parent=parent,
        source=sides[0],
        destination=sides[1],
        amount=1,
        currency="EUR",
        effective_at=NOW,
        created_at=NOW,
        expires_at=None,
        release_rest=None,
        reference=None,
        description=None,
        metadata="{}",
        source_version=versions[0],
        destination_version=versions[1],
    )


@pytest.mark.parametrize(
    ("batch", "order"),
    [
        pytest.param([row(1, "ab", (2, 2)), row(2, "bc", (3, 2))], "12", id="by id"),
        pytest.param([row(1, "ab", (2, 3)), row(2, "cb", (2, 2))], "21", id="by version of the account they share"),
        pytest.param([row(1, "ab", (2, 2), "2"), row(2, "cd", (2, 2))], "21", id="a parent first"),
        pytest.param([row(1, "ab", (3, 3)), row(2, "ac", (4, 2)), row(3, "ba", (2, 2))], "312", id="one, then by id"),
        pytest.param([row(1, "ab", (None, None), "2"), row(2, "ab", (2, 2))], "21", id="an expiry without a row"),
        pytest.param([row(1, "ab", (3, 2)), row(2, "ab", (2, 3))], "12", id="in a circle: as they are"),
    ],
)
def test_the_order_of_a_batch(batch: list[ExportedTransfer], order: str) -> None:
    """Transfers of one instant are ordered by versions and parents, and otherwise by id."""
    assert "".join(each.key or "" for each in in_order(batch)) == order


async def test_standard_output(database_url: str, tmp_path: Path) -> None:
    """Standard output gets the same bytes as a file, whatever the locale."""
    async with in_process(database_url) as service:
        client = await service.client("books")
        await client.fund("a", 5)
        assert (await client.transfer("a", "world", 1, "k", description="Grüße 🏦\n")).status == 201
    for layout in ("csv", "jsonl", "hledger"):
        file = await export(database_url, "books", layout, tmp_path)
        words = ("export", "--ledger", "books", "--format", layout)
        end = await run(*words, database_url=database_url)
        assert (end.code, end.out.encode(), end.err) == (0, file, "")


async def test_where_it_cannot_be_written(database_url: str, tmp_path: Path) -> None:
    """
    A full disk, a missing folder, a missing ledger or a bad instant is an error, and an existing file stays unchanged.
    """
    async with in_process(database_url) as service:
        await (await service.client("books")).fund("a", 5)
    file = tmp_path / "books.csv"
    file.write_text("before")
    for words, code, error in (
        (("--ledger", "books", "--output", "/dev/full"), 2, "tallystick: No space left on device: /dev/full\n"),
        (
            ("--ledger", "books", "--output", f"{tmp_path}/no/books"),
            2,
            f"No such file or directory: {tmp_path}/no/books\n",
        ),
        (("--ledger", "other", "--output", str(file)), 2, "tallystick: there is no ledger other\n"),
        (("--ledger", "books", "--from", "monday"), 2, "name an instant as 2026-01-31T12:00:00Z"),
    ):
        end = await call("export", "--format", "csv", *words, database_url=database_url)
        assert (end.code, end.out, error in end.err) == (code, "", True), end
    assert os.listdir(tmp_path) == ["books.csv"]
    assert file.read_text() == "before"


async def test_a_reader_that_goes(database_url: str, tmp_path: Path) -> None:
    """If the reader closes the pipe, the export ends without a message, with the exit code of SIGPIPE."""
    async with in_process(database_url) as service:
        client = await service.client("books")
        await client.fund("a", 5)
    reader, writer = os.pipe()
    os.close(reader)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.cli", "export", "--ledger", "books", "--format", "csv"),
        env=environment({"TALLYSTICK_DATABASE_URL": database_url}),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    _, err = await asyncio.wait_for(child.communicate(), END_SECONDS)
    assert (child.returncode, err) == (EXIT_NO_READER, b"")


async def test_days(database_url: str, tmp_path: Path) -> None:
    """A day means its beginning in UTC."""
    async with in_process(database_url) as service:
        await (await service.client("books")).fund("a", 5)
    every = await export(database_url, "books", "jsonl", tmp_path, "--from", "2001-01-01", "--to", "2999-01-01")
    none = await export(database_url, "books", "jsonl", tmp_path, "--from", "2999-01-01")
    assert (every.count(b"\n"), none.count(b"\n")) == (3, 2)


def test_instants_are_cut_off() -> None:
    """Digits finer than microseconds are cut off, as in requests: the end of a month stays in it."""
    assert read_instant("2026-01-31T23:59:59.9999999Z") == datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)


class Terminal:
    """Records what is printed, and says that it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar shows progress and then removes itself; where output is no terminal there is none."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Bar("import")
    bar.show(0.5, 1_000)
    bar.show(0.6, 1_200)
    bar.clear()
    shown = terminal.text.split("\r\033[K")
    assert shown[1].startswith(f"import [{'#' * 15}{' ' * 15}]  50%  1,000 records, ")
    assert (len(shown), shown[-1]) == (3, "")
    assert not Bar("export", beside=True).shown
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    quiet = Bar("import")
    quiet.show(0.5, 1)
    assert not quiet.shown
    assert len(terminal.text.split("\r\033[K")) == 3
