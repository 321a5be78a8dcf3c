"""
The bank's books are read and rows become transfers, with rows made by hand.
"""

import gzip
from pathlib import Path

import msgspec
import pytest

from loadtests.errors import NotRunError
from loadtests.openloop import berka
from tallystick_client.request import instant

HEADER = (
    "seq,trans_id,account_id,date,sign,amount_cents,bank_balance_cents,bank_delta_cents,"
    "rounding_cents,type,operation,k_symbol,partner_bank,partner_account"
)


def line(
    *,
    seq: int = 1,
    account: int = 7,
    date: str = "990101",
    sign: str = "+",
    amount: str = "500",
    rounding: int = 0,
    operation: str = "VKLAD",
    k_symbol: str = "",
    partner_bank: str = "",
) -> str:
    """
    Return a line of the file, with defaults for all fields.
    """
    kind = "PRIJEM" if sign == "+" else "VYDAJ"
    return (
        f"{seq},9{seq},{account},{date},{sign},{amount},1234,0,{rounding},{kind},{operation},{k_symbol},{partner_bank},"
    )


def rows_of(tmp_path: Path, *lines: str) -> list[berka.Row]:
    path = tmp_path / "books.csv"
    path.write_text("\n".join([HEADER, *lines, ""]))
    return berka.read_rows(path)


def moves(row: berka.Row) -> list[tuple[str, str, str, int]]:
    return [(t.key, t.source, t.destination, t.amount) for t in berka.transfers(row)]


@pytest.mark.parametrize(
    ("operation", "k_symbol", "partner_bank", "counter_account"),
    [
        pytest.param("VKLAD", "", "", "cash", id="paid in at the counter"),
        pytest.param("VYBER", "", "", "cash", id="taken out at the counter"),
        pytest.param("VYBER KARTOU", "", "", "cash", id="taken out with a card"),
        pytest.param("VYBER", "SIPO", "", "cash", id="bills paid in cash"),
        pytest.param("VYBER", "SLUZBY", "", "fees", id="a fee is by purpose, not by operation"),
        pytest.param("VYBER", "SANKC. UROK", "", "interest:penalty", id="penalty interest"),
        pytest.param("", "UROK", "", "interest", id="interest has no operation"),
        pytest.param("PREVOD Z UCTU", "", "QQ", "bank:QQ", id="from another bank"),
        pytest.param("PREVOD Z UCTU", "DUCHOD", "QQ", "bank:QQ", id="pension"),
        pytest.param("PREVOD NA UCET", "", "QQ", "bank:QQ", id="to another bank"),
        pytest.param("PREVOD NA UCET", "SIPO", "QQ", "bank:QQ", id="bills paid by transfer"),
        pytest.param("PREVOD NA UCET", "POJISTNE", "QQ", "bank:QQ", id="insurance"),
        pytest.param("PREVOD NA UCET", "UVER", "QQ", "bank:QQ", id="loan instalment"),
    ],
)
def test_counter_account(
    tmp_path: Path, operation: str, k_symbol: str, partner_bank: str, counter_account: str
) -> None:
    """
    Operation and purpose decide the other side of a row.
    """
    text = line(operation=operation, k_symbol=k_symbol, partner_bank=partner_bank)
    assert [row.counter_account for row in rows_of(tmp_path, text)] == [counter_account]


def test_every_pair_of_the_table_is_tested() -> None:
    """
    The parameters above cover the whole table.
    """
    cases = test_counter_account.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {case.values[:2] for case in cases} == set(berka.COUNTER_ACCOUNTS)


@pytest.mark.parametrize(
    ("sign", "rounding", "expected"),
    [
        pytest.param("+", 0, [("berka:91", "cash", "berka:7", 500)], id="in"),
        pytest.param("-", 0, [("berka:91", "berka:7", "cash", 500)], id="out"),
        pytest.param(
            "+",
            -10,
            [
                ("berka:91", "cash", "berka:7", 500),
                ("berka:91:rounding", "berka:7", "rounding", 10),
            ],
            id="in, rounded down",
        ),
        pytest.param(
            "-",
            10,
            [
                ("berka:91", "berka:7", "cash", 500),
                ("berka:91:rounding", "rounding", "berka:7", 10),
            ],
            id="out, rounded up",
        ),
    ],
)
def test_transfers(tmp_path: Path, sign: str, rounding: int, expected: list[tuple[str, str, str, int]]) -> None:
    """
    The sign decides the direction of the transfer, and a rounding difference makes a second transfer.
    """
    (row,) = rows_of(tmp_path, line(sign=sign, rounding=rounding))
    assert moves(row) == expected


def test_fields_are_those_of_the_contract(tmp_path: Path) -> None:
    """
    A transfer has the fields of the API, and its metadata has the row's operation and purpose.
    """
    (row,) = rows_of(tmp_path, line(operation="", k_symbol="UROK"))
    (transfer,) = berka.transfers(row)
    assert msgspec.to_builtins(transfer) == {
        "source": "interest",
        "destination": "berka:7",
        "amount": 500,
        "currency": "CZK",
        "key": "berka:91",
        "reference": "berka:91",
        "metadata": {"purpose": "UROK"},
        "effective_at": "1999-01-01T00:00:00Z",
    }


def test_month_ends(tmp_path: Path) -> None:
    """
    The last row of each month gives its end, which is the last instant of its last day.
    """
    dates = ("960228", "960229", "960301", "961231")
    (book,) = berka.books(rows_of(tmp_path, *(line(seq=n, date=date) for n, date in enumerate(dates))))
    assert {instant(row.month_end): row.date for row in book} == {
        "1996-02-29T23:59:59.999999Z": "960229",
        "1996-03-31T23:59:59.999999Z": "960301",
        "1996-12-31T23:59:59.999999Z": "961231",
    }


def test_books_are_in_order(tmp_path: Path) -> None:
    """
    Each account's book has its rows by seq, whatever their order in the file, and longer books come first.
    """
    rows = rows_of(
        tmp_path,
        line(seq=5, account=1),
        line(seq=4, account=2),
        line(seq=2, account=2),
        line(seq=3, account=2),
    )
    found = [(book[0].account, [row.seq for row in book]) for book in berka.books(rows)]
    assert found == [("berka:2", [2, 3, 4]), ("berka:1", [5])]


def test_rows_max_and_gzip(tmp_path: Path) -> None:
    """
    A gzipped file is read like a plain one, and only up to the given number of rows.
    """
    path = tmp_path / "books.csv.gz"
    text = "\n".join([HEADER, line(seq=1), line(seq=2), line(seq=3)])
    path.write_bytes(gzip.compress(text.encode()))
    assert [row.seq for row in berka.read_rows(path, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(line(operation="PREVOD", k_symbol="UVER"), "no counter account", id="pair"),
        pytest.param(line(operation="PREVOD NA UCET"), "no partner bank", id="partner bank"),
        pytest.param(line(sign="*"), "sign`", id="sign"),
        pytest.param(line(amount="0"), ">= 1 .*amount_cents", id="amount"),
        pytest.param(line(amount="1.5"), "Expected `int`.*amount_cents", id="fraction"),
        pytest.param("1,91,7", "got `null`", id="columns"),
    ],
)
def test_a_row_without_meaning_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """
    The error names the row, counted from 1.
    """
    with pytest.raises(NotRunError, match=f"row 2 of the data file.*{message}"):
        rows_of(tmp_path, line(), text)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    """
    The error has the path and says how to name another file.
    """
    with pytest.raises(NotRunError, match=r"there is no data file .*nowhere\.csv; --data"):
        berka.read_rows(tmp_path / "nowhere.csv")


def test_another_csv_is_refused(tmp_path: Path) -> None:
    """
    The error names a missing column.
    """
    path = tmp_path / "other.csv"
    path.write_text("\n".join([HEADER.replace("sign", "signum"), line()]))
    with pytest.raises(NotRunError, match="missing required field `sign`"):
        berka.read_rows(path)


def test_a_broken_gzip_is_refused(tmp_path: Path) -> None:
    """
    A file with that name that is no gzip is reported as unreadable, without a traceback.
    """
    path = tmp_path / "books.csv.gz"
    path.write_bytes(b"plain")
    with pytest.raises(NotRunError, match="cannot be read"):
        berka.read_rows(path)
