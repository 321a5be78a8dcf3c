"""The lines of a file: which are accepted, and how errors name the others."""

import io
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ledger.export import ExportedAccount, ExportedTransfer
from server.ledger.limits import METADATA_KEY_LENGTH_MAX, METADATA_KEYS_MAX
from server.process.books.columns import COLUMNS, CSV, JSONL, Format
from server.process.books.lines import RECORD_BYTES_MAX, LineError, read_lines
from server.process.books.record import Instant, Record

NOW = Instant(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
ACCOUNT = ExportedAccount("a:1", "EUR", None, 2**63 - 1, True, '{"b": "1", "a": "2"}', NOW)
TRANSFER = ExportedTransfer(
    place=NOW,
    id=UUID(int=1),
    key='k"1,',
    kind="capture",
    parent="k0",
    source="a:1",
    destination="b",
    amount=2**63 - 1,
    currency="EUR",
    effective_at=NOW,
    created_at=NOW,
    expires_at=None,
    release_rest=False,
    reference="x",
    description="",
    metadata='{"a":"b"}',
    source_version=2,
    destination_version=2,
)
HEAD = b"key,source,destination,amount,currency\n"
GOOD = b'{"key":"k","source":"a","destination":"b","amount":5,"currency":"EUR"}\n'


def read(data: bytes) -> list[Record]:
    """Return the records of a file."""
    return [line.record for line in read_lines(io.BytesIO(data))]


@pytest.mark.parametrize("layout", [CSV, JSONL], ids=["csv", "jsonl"])
@pytest.mark.parametrize(
    "description",
    [None, "", '"', ",", "two\nlines\r\n", "\r", " x ", "Grüße 🏦", "{", "true", "\\", "'", "null", "\u2028"],
)
def test_what_is_written_is_read(layout: Format, description: str | None) -> None:
    """Each text, also an empty or a missing one, is read as it was written."""
    data = layout.head + layout.account(ACCOUNT) + layout.transfer(TRANSFER._replace(description=description))
    account, transfer = read(data)
    assert account == Record(
        record="account",
        id="a:1",
        currency="EUR",
        created_at=NOW,
        floor=None,
        ceiling=2**63 - 1,
        closed=True,
        metadata={"a": "2", "b": "1"},
    )
    assert transfer == Record(
        id=str(UUID(int=1)),
        key='k"1,',
        kind="capture",
        parent="k0",
        source="a:1",
        destination="b",
        amount=2**63 - 1,
        currency="EUR",
        effective_at=NOW,
        created_at=NOW,
        release_rest=False,
        # A transfer has no floor; CSV writes it like any other missing value.
        floor=transfer.floor,
        reference="x",
        description=description,
        metadata={"a": "b"},
    )


CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS, max_size=60)
NAMES = st.text(CHARACTERS, min_size=1, max_size=METADATA_KEY_LENGTH_MAX)


@given(
    description=st.none() | TEXT,
    reference=st.none() | TEXT.filter(bool),
    metadata=st.dictionaries(NAMES, TEXT, max_size=METADATA_KEYS_MAX),
)
def test_any_text_is_read_again(description: str | None, reference: str | None, metadata: dict[str, str]) -> None:
    """Any text is read as it was written, in both formats."""
    row = TRANSFER._replace(description=description, reference=reference, metadata=orjson.dumps(metadata).decode())
    for layout in (CSV, JSONL):
        _, record = read(layout.head + layout.account(ACCOUNT) + layout.transfer(row))
        assert (record.description, record.reference, record.metadata) == (description, reference, metadata)


def test_both_have_the_same_columns() -> None:
    """CSV names in its first line the columns that JSON Lines names in each line."""
    assert CSV.head.decode().strip().split(",") == list(COLUMNS) == list(Record.__struct_fields__)
    for record in (JSONL.account(ACCOUNT), JSONL.transfer(TRANSFER)):
        assert list(orjson.loads(record)) == list(COLUMNS)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD, id="JSON Lines"),
        pytest.param(HEAD + b"k,a,b,5,EUR\n", id="CSV with some of the columns"),
        pytest.param(b"\xef\xbb\xbf" + HEAD + b"k,a,b,5,EUR\n", id="CSV with a byte order mark"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="JSON with a byte order mark"),
        pytest.param((HEAD + b"k,a,b,5,EUR\n").replace(b"\n", b"\r\n"), id="CSV of Windows"),
        pytest.param(GOOD.replace(b"\n", b"\r\n"), id="JSON of Windows"),
        pytest.param(b"\n" + HEAD + b"\n\nk,a,b,5,EUR\n\n", id="CSV with empty lines"),
        pytest.param(b"\n\n" + GOOD + b"\n", id="JSON with empty lines"),
        pytest.param(
            b'"key",amount,"source",destination,currency\n"k","5",a,b,EUR\n', id="CSV in quotes, in another order"
        ),
    ],
)
def test_forms(data: bytes) -> None:
    """Files written by hand or by other programs are accepted."""
    assert read(data) == [Record(key="k", source="a", destination="b", amount=5, currency="EUR")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"", "line 1: the file is empty", id="nothing"),
        pytest.param(b"\n\n", "line 1: the file is empty", id="empty lines"),
        pytest.param(b"key,amout\nk,1\n", "line 1: there is no column 'amout'", id="a column there is not"),
        pytest.param(b"key,key\n", "line 1: the column key appears twice", id="a column twice"),
        pytest.param(HEAD + b"k,a,b,5\n", "line 2: it has 4 fields, and the first line has 5", id="a field missing"),
        pytest.param(HEAD + b"k,a,b,5,EUR,\n", "line 2: it has 6 fields", id="a field too many"),
        pytest.param(HEAD + b"k,a,b,5.00,EUR\n", "line 2: amount: a whole number is expected", id="decimals in CSV"),
        pytest.param(
            HEAD + b"k,a,b, 5,EUR\n", "line 2: amount: a whole number is expected", id="a blank before a number"
        ),
        pytest.param(HEAD + b"k,a,b,1e3,EUR\n", "line 2: amount: a whole number is expected", id="an exponent"),
        pytest.param(HEAD + b"k,a,b,05,EUR\n", "line 2: amount: a whole number is expected", id="a zero before it"),
        pytest.param(HEAD + "k,a,b,५,EUR\n".encode(), "line 2: amount: a whole number", id="digits of another script"),
        pytest.param(HEAD + b"k,a,b,9223372036854775808,EUR\n", "line 2: amount: ", id="an amount too large"),
        pytest.param(HEAD + b"k,a,b,-5,EUR\n", "line 2: amount: ", id="a negative amount"),
        pytest.param(HEAD + b"k,a,b,,EUR\n", "line 2: amount: a transfer needs one", id="no amount"),
        pytest.param(HEAD + b"k,a,b,5,EUR", "line 2: the file ends in the middle of it", id="CSV cut off"),
        pytest.param(HEAD + b"k,a,b,5,EUR\nk2,a", "line 3: the file ends in the middle of it", id="CSV cut off later"),
        pytest.param(HEAD + b'k,a,b,5,"EUR\n', "line 2: its quotes are not closed", id="quotes not closed"),
        pytest.param(
            HEAD + b'k,a"a",b,5,EUR\n', "line 2: field 2 has a quote in the middle", id="a quote in the middle"
        ),
        pytest.param(HEAD + b"k,\xff,b,5,EUR\n", "line 2: it is not UTF-8", id="not UTF-8"),
        pytest.param(HEAD + b"k,a\x00,b,5,EUR\n", "line 2: it holds a NUL character", id="a NUL"),
        pytest.param(HEAD + b"k k,a,b,5,EUR\n", "line 2: key: ", id="a key with a blank"),
        pytest.param(HEAD + b"k,a b,b,5,EUR\n", "line 2: source: ", id="no account id"),
        pytest.param(HEAD + b"k,a,b,5,eur\n", "line 2: currency: ", id="no currency"),
        pytest.param(
            HEAD + b"k,a,a,5,EUR\n", "line 2: destination: it is the same as the source", id="one account twice"
        ),
        pytest.param(HEAD + b"k" * RECORD_BYTES_MAX + b"\n", "line 2: it is longer than 512 KiB", id="a huge line"),
        pytest.param(HEAD + b'"\n' * RECORD_BYTES_MAX, "line 2: ", id="quotes over many lines"),
        pytest.param(GOOD + b"[]\n", "line 2: it is not a JSON object in UTF-8", id="no object"),
        pytest.param(GOOD + b'{"key"\n', "line 2: it is not a JSON object in UTF-8", id="no JSON"),
        pytest.param(GOOD + GOOD[:30], "line 2: the file ends in the middle of it", id="JSON cut off"),
        pytest.param(GOOD + b"\xff\n", "line 2: it is not a JSON object in UTF-8", id="JSON, not UTF-8"),
        pytest.param(GOOD.replace(b"5", b"5.0"), "line 1: amount: ", id="a float"),
        pytest.param(GOOD.replace(b"5", b'"5"'), "line 1: amount: ", id="a number as text"),
        pytest.param(GOOD.replace(b"5", b"true"), "line 1: amount: ", id="true as a number"),
        pytest.param(GOOD.replace(b"5", b'5,"amount":6'), "line 1: amount: the field is repeated", id="a member twice"),
        pytest.param(
            GOOD.replace(b"5", b'5,"amout":6'), "line 1: amout: the field is unknown", id="a member there is not"
        ),
        pytest.param(GOOD.replace(b'"k"', b'"k\\u0000"'), "line 1: key: ", id="a NUL as an escape"),
        pytest.param(GOOD.replace(b"5", b'5,"kind":"gift"'), "line 1: kind: ", id="a kind there is not"),
        pytest.param(
            GOOD.replace(b"5", b'5,"parent":"x"'), "line 1: parent: a transfer has none", id="a parent too many"
        ),
        pytest.param(GOOD.replace(b"5", b'5,"kind":"void"'), "line 1: parent: a void needs one", id="a parent missing"),
        pytest.param(
            GOOD.replace(b"5", b'5,"floor":0'), "line 1: floor: a transfer has none", id="a floor of a transfer"
        ),
        pytest.param(
            GOOD.replace(b"5", b'5,"effective_at":"2026-01-01"'), "line 1: effective_at: ", id="a day for an instant"
        ),
        pytest.param(GOOD.replace(b"5", b'5,"effective_at":5'), "line 1: effective_at: an instant is", id="a number"),
        pytest.param(
            GOOD.replace(b"5", b'5,"effective_at":"2026-01-01T00:00:00"'), "line 1: effective_at: ", id="no offset"
        ),
        pytest.param(
            GOOD.replace(b"5", b'5,"effective_at":"0001-01-01T00:00:00+14:00"'),
            "line 1: effective_at: the year in UTC must be 0002 to 9998",
            id="before all time",
        ),
        pytest.param(b'{"record":"account","id":"a"}\n', "line 1: currency: an account needs one", id="no currency"),
        pytest.param(
            b'{"record":"account","id":"a b","currency":"EUR"}\n', "line 1: id: not the id of an account", id="no id"
        ),
        pytest.param(
            b'{"record":"account","id":"a","currency":"EUR","amount":1}\n',
            "line 1: amount: an account has none",
            id="an amount of an account",
        ),
        pytest.param(
            b'{"record":"account","id":"a","currency":"EUR","ceiling":-1}\n',
            "line 1: floor: it lies above the ceiling",
            id="a floor above the ceiling",
        ),
        pytest.param(
            b'record,id,currency,metadata\naccount,a,EUR,"{""a"":1}"\n',
            "line 2: metadata.a: expected str, got int",
            id="a number in metadata",
        ),
        pytest.param(
            b"record,id,currency,metadata\naccount,a,EUR,{\n",
            "line 2: metadata: it is not a JSON object",
            id="metadata cut",
        ),
        pytest.param(b"record,id,currency,closed\naccount,a,EUR,yes\n", "line 2: closed: true or false", id="yes"),
    ],
)
def test_what_is_not_taken(data: bytes, text: str) -> None:
    """The error names the line and what is wrong with it."""
    with pytest.raises(LineError) as caught:
        read(data)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", ["effective_at", "expires_at", "created_at"])
def test_instants_are_cut_off(name: str) -> None:
    """Digits finer than microseconds are cut off, as in requests: no instant moves into the next month."""
    fine = "2026-01-31T23:59:59.9999999Z"
    csv = f"kind,key,source,destination,amount,currency,{name}\nhold,k,a,b,5,EUR,{fine}\n"
    json = GOOD.decode().replace("5", f'5,"kind":"hold","{name}":"{fine}"')
    for text in (csv, json):
        [record] = read(text.encode())
        assert getattr(record, name) == datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def test_floors_of_accounts() -> None:
    """An account without a floor column has the API's default floor; one whose floor is empty has no floor."""
    [unsaid] = read(b"record,id,currency\naccount,a,EUR\n")
    [empty] = read(b"record,id,currency,floor\naccount,a,EUR,\n")
    assert (unsaid.floor is not None, empty.floor) == (True, None)
