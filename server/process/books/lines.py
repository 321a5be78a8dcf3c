"""Reads the records of a file one after another and checks each."""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import msgspec

from server.http.models import Metadata
from server.http.problems import Problem
from server.http.wire.body import decode, shape_problem
from server.process.books.record import Record, RecordError, check_record, read_member

# Most bytes of a record: a little more than the largest possible record has with every character escaped.
RECORD_BYTES_MAX: Final = 512 * 1024

_BOM: Final = b"\xef\xbb\xbf"
# A field of CSV, and the comma or end after it.
_FIELD: Final = re.compile(r'(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^",]*))(?P<end>,|\Z)')
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})", re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False}
_INTEGERS: Final = frozenset({"amount", "floor", "ceiling"})
_COLUMNS: Final = frozenset(Record.__struct_fields__)

_json = msgspec.json.Decoder(Record, dec_hook=read_member)
_metadata = msgspec.json.Decoder(Metadata)


class LineError(Exception):
    """
    A line of the file is wrong.

    Args:
        number: The number of the line, from 1.

        text: What is wrong with it; it quotes nothing from the line but names.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"line {number}: {text}")
        self.number = number


class Line(NamedTuple):
    """A record, and its place in the file."""

    number: int
    record: Record
    # Bytes of the file up to the end of the record.
    end: int


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """
    Yield all records of a file from its beginning: JSON Lines if it begins with a brace, otherwise CSV.

    Raises:
        LineError: A line is wrong.
    """
    begin, is_json = _layout(file)
    file.seek(begin)
    raw = _records(file, quotes=not is_json)
    if is_json:
        for each in raw:
            yield _line(each, _from_json(each))
        return
    names: list[str] | None = None
    for each in raw:
        if names is None:
            names = _head(each)
        else:
            yield _line(each, _from_csv(each, names))
    if names is None:
        raise LineError(1, "the file is empty")


def _layout(file: BinaryIO) -> tuple[int, bool]:
    """Return where the text of a file begins, and whether it is JSON."""
    file.seek(0)
    begin = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(begin)
    while line := file.readline(RECORD_BYTES_MAX):
        if line.strip():
            return begin, line.lstrip().startswith(b"{")
    return begin, False


class _Raw(NamedTuple):
    number: int
    text: bytes
    end: int


def _records(file: BinaryIO, *, quotes: bool) -> Iterator[_Raw]:
    """
    Yield the text of each record, without its end of line.

    Args:
        quotes: Whether a record continues on the next line if a line ends inside quotes.
    """
    number = first = size = open_quotes = 0
    parts: list[bytes] = []
    while line := file.readline(RECORD_BYTES_MAX):
        number += 1
        first = first or number
        size += len(line)
        if size >= RECORD_BYTES_MAX:
            raise LineError(first, f"it is longer than {RECORD_BYTES_MAX // 1024} KiB")
        if not line.endswith(b"\n"):
            raise LineError(number, "the file ends in the middle of it: the last line needs a line feed too")
        parts.append(line)
        open_quotes = (open_quotes + line.count(b'"')) % 2
        if quotes and open_quotes:
            continue
        text = b"".join(parts).removesuffix(b"\n").removesuffix(b"\r")
        if text.strip():
            yield _Raw(first, text, file.tell())
        parts.clear()
        first = size = open_quotes = 0
    if parts:
        raise LineError(first, "its quotes are not closed")


def _line(raw: _Raw, record: Record) -> Line:
    try:
        check_record(record)
    except RecordError as error:
        raise LineError(raw.number, str(error)) from None
    return Line(raw.number, record, raw.end)


def _from_json(raw: _Raw) -> Record:
    try:
        return decode(_json, raw.text)
    except Problem as problem:
        raise _shape_error(raw, problem, "it is not a JSON object in UTF-8") from None


def _head(raw: _Raw) -> list[str]:
    """Return the names of the columns."""
    names = [(value or "").strip() for value in _fields(raw)]
    for name in names:
        if name not in _COLUMNS:
            known = ", ".join(Record.__struct_fields__)
            raise LineError(raw.number, f"there is no column {name[:64]!a}: the columns are {known}")
        if names.count(name) > 1:
            raise LineError(raw.number, f"the column {name} appears twice")
    return names


def _from_csv(raw: _Raw, names: list[str]) -> Record:
    values = _fields(raw)
    if len(values) != len(names):
        raise LineError(raw.number, f"it has {len(values)} fields, and the first line has {len(names)}")
    members: dict[str, object] = {}
    for name, value in zip(names, values, strict=True):
        if value is None:
            # An empty floor means no floor; a file without this column means the default floor.
            if name == "floor":
                members[name] = None
        elif name in _INTEGERS:
            if not _INTEGER.fullmatch(value):
                raise LineError(raw.number, f"{name}: a whole number is expected")
            members[name] = int(value)
        elif name in ("closed", "release_rest"):
            if value not in _BOOLEANS:
                raise LineError(raw.number, f"{name}: true or false is expected")
            members[name] = _BOOLEANS[value]
        elif name == "metadata":
            members[name] = {} if value == "{}" else _metadata_of(raw, value)
        else:
            members[name] = value
    try:
        return msgspec.convert(members, Record, dec_hook=read_member)
    except msgspec.ValidationError as error:
        raise _shape_error(raw, shape_problem(error), "it is not a record") from None


def _metadata_of(raw: _Raw, value: str) -> dict[str, str]:
    try:
        return decode(_metadata, value.encode())
    except Problem as problem:
        raise _shape_error(raw, problem, "it is not a JSON object of strings", "metadata") from None


def _fields(raw: _Raw) -> list[str | None]:
    """Return the fields of a line of CSV. A field that is empty and not quoted is None."""
    try:
        text = raw.text.decode()
    except UnicodeDecodeError:
        raise LineError(raw.number, "it is not UTF-8") from None
    if "\x00" in text:
        raise LineError(raw.number, "it holds a NUL character")
    if '"' not in text:
        return [value or None for value in text.split(",")]
    values: list[str | None] = []
    place = 0
    while True:
        field = _FIELD.match(text, place)
        if field is None:
            raise LineError(raw.number, f"field {len(values) + 1} has a quote in the middle of it")
        quoted = field["quoted"]
        values.append(field["plain"] or None if quoted is None else quoted.replace('""', '"'))
        if not field["end"]:
            return values
        place = field.end()


def _shape_error(raw: _Raw, problem: Problem, otherwise: str, inside: str = "") -> LineError:
    """Return the error for a line that a decoder refuses."""
    pointer, detail = problem.errors[0]
    path = ".".join(part for part in (inside, *pointer.split("/")) if part)
    # If the error is about the whole record, the decoder's text speaks of the body of a request.
    text = detail[:1].lower() + detail[1:].rstrip(".") if pointer else otherwise
    return LineError(raw.number, f"{path}: {text}" if path else text)
