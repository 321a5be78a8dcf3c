"""The commands `export` and `import`."""

import io
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from server.books import create_books
from server.gate.key_store import ledger_id
from server.http import instants
from server.ledger.export import Book, open_book
from server.process.books.checks import check_against, check_file
from server.process.books.columns import CSV, JSONL, Format
from server.process.books.hledger import HLEDGER
from server.process.books.into import Import
from server.process.commands.exits import check_output, say, say_bytes
from server.process.commands.progress import Bar
from server.settings import Settings

FORMATS: Final[dict[str, Format]] = {"csv": CSV, "hledger": HLEDGER, "jsonl": JSONL}
# Bytes that one call writes.
WRITE_BYTES: Final = 64 * 1024

Write = Callable[[bytes], object]


class FileError(Exception):
    """The named file cannot be imported; the message says why."""


def read_instant(text: str) -> datetime:
    """
    Return the instant that *text* names, cut off to microseconds; a day means its beginning in UTC.

    Raises:
        ValueError: The text names neither an instant nor a day.
    """
    try:
        return instants.read_instant(text if "T" in text.upper() else f"{text}T00:00:00Z")
    except ValueError:
        raise ValueError(
            "name an instant as 2026-01-31T12:00:00Z, or a day as 2026-01-31, in the years 0002 to 9998"
        ) from None


async def export_books(
    dsn: str,
    ledger: str,
    *,
    layout: Format,
    file: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """
    Write the book of a ledger to *file*, or to standard output.

    Raises:
        NoLedgerError, StoreUnavailableError, DatabaseError: As `open_book`.
        OutputError: Standard output cannot be written.
        OSError: The file cannot be written.
    """
    check_output()
    bar = Bar("export", beside=file is None and sys.stdout.isatty())
    async with open_book(dsn, ledger, since, until) as book:
        with _output(file) as write:
            await _write_book(book, layout, write, bar)


async def _write_book(book: Book, layout: Format, write: Write, bar: Bar) -> None:
    total = await book.count() if bar.shown else 0
    pending = bytearray(layout.head)
    done = 0

    def add(record: bytes) -> None:
        nonlocal done
        pending.extend(record)
        done += 1
        if len(pending) >= WRITE_BYTES:
            write(bytes(pending))
            pending.clear()
            bar.show(done / total if total else 0.0, done)

    try:
        async for account in book.accounts():
            add(layout.account(account))
        async for transfer in book.transfers():
            add(layout.transfer(transfer))
        write(bytes(pending))
    finally:
        bar.clear()


@contextmanager
def _output(path: Path | None) -> Iterator[Write]:
    """
    Yield a function that writes to a file or to standard output.

    A file appears, or replaces another one, only when all of it has been written.
    """
    if path is None:
        yield say_bytes
        return
    with _naming(path):
        path = path.resolve()
        whole = not path.exists() or path.is_file()
        if not whole:
            # A device or a pipe must be written to, not replaced.
            with path.open("wb") as file:
                yield file.write
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                yield file.write
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors of the system, because that of a full disk has none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


async def import_books(settings: Settings, ledger: str, file: BinaryIO) -> None:
    """
    Post a file into a ledger, which is made if it does not exist, and print what was done.

    Args:
        settings: Settings with the addresses of Postgres and Redis.

        file: A file that `check_file` has accepted.

    Raises:
        LineError, StoreError: As `check_against` and `Import.run`.
    """
    size = file.seek(0, io.SEEK_END)
    began = time.monotonic()
    async with create_books(settings) as books:
        check = Bar("check")
        try:
            number = await ledger_id(books.database, ledger)
            await check_against(books.database, number, file, lambda end, records: check.show(end / size, records))
        finally:
            check.clear()
        await books.database.write("ledger_create", ledger)
        number = await ledger_id(books.database, ledger)
        assert number is not None, "ledgers are never removed"
        bar = Bar("import")
        try:
            done = await Import(books, number, file, lambda end, records: bar.show(end / size, records)).run()
        finally:
            bar.clear()
    seconds = time.monotonic() - began
    say(
        f"ledger {ledger}: {done.accounts:,} accounts ({done.accounts_known:,} already there) and "
        f"{done.transfers:,} transfers ({done.transfers_known:,} already there) in {seconds:.1f} s"
    )


@contextmanager
def open_checked(path: Path) -> Iterator[BinaryIO]:
    """
    Yield a file after checking all of it, so that no part of an incomplete file is posted.

    Raises:
        FileError: It is not a regular file.
        LineError: A line of it is wrong.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{path} is not a regular file: an import must be able to read it more than once")
        bar = Bar("check")
        try:
            check_file(file, lambda end, records: bar.show(end / status.st_size, records))
        finally:
            bar.clear()
        yield file
