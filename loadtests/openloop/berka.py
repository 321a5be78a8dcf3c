"""
The books of a real bank, read from their CSV and turned into transfers of the ledger.

The file's README describes the columns. Each row names one customer's account and the bank's own
balance after it, which is what makes the books worth replaying: the right answer is known.
"""

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from loadtests.errors import NotRunError

CURRENCY = "CZK"
ROUNDING = "rounding"
# The other side of a transfer to or from another bank; one account for each partner bank.
PARTNER_BANK = "bank:{partner_bank}"

# Who stands on the other side of a row, by (operation, k_symbol). Where the purpose says that the
# bank itself pays or earns, it decides; otherwise the way the money took does. Every pair that the
# file holds is listed, and a pair that is not is refused rather than guessed.
COUNTER_ACCOUNTS = {
    # operation         purpose           other side
    ("VKLAD", ""): "cash",  # paid in at the counter
    ("VYBER", ""): "cash",  # taken out at the counter
    ("VYBER", "SIPO"): "cash",  # household bills, paid with cash taken out
    ("VYBER KARTOU", ""): "cash",  # taken out with a card
    ("VYBER", "SLUZBY"): "fees",  # the bank's fee for statements
    ("VYBER", "SANKC. UROK"): "interest:penalty",  # charged for an overdrawn account
    ("", "UROK"): "interest",  # credited by the bank
    ("PREVOD Z UCTU", ""): PARTNER_BANK,  # received from another bank
    ("PREVOD Z UCTU", "DUCHOD"): PARTNER_BANK,  # old-age pension received
    ("PREVOD NA UCET", ""): PARTNER_BANK,  # sent to another bank
    ("PREVOD NA UCET", "SIPO"): PARTNER_BANK,  # household bills
    ("PREVOD NA UCET", "POJISTNE"): PARTNER_BANK,  # insurance premium
    ("PREVOD NA UCET", "UVER"): PARTNER_BANK,  # loan instalment
}


class DataError(NotRunError):
    """The data file is absent, is not the expected CSV, or has a row that has no meaning here."""


class Transfer(msgspec.Struct, frozen=True):
    """One transfer to post, with the idempotency key it is posted under."""

    key: str
    source: str
    destination: str
    amount: int
    reference: str
    metadata: dict[str, str]
    currency: str = CURRENCY

    def fields(self) -> dict[str, object]:
        """The body of `POST /v1/transfers`; the same transfer always gives the same fields."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if name != "key"}


class Row(msgspec.Struct, frozen=True):
    """One line of the bank's books, by the names of its columns; *number* counts the rows of the file from 1."""

    number: int
    seq: int
    trans_id: str
    account_id: str
    date: str
    sign: Literal["+", "-"]
    amount_cents: Annotated[int, msgspec.Meta(gt=0)]
    bank_balance_cents: int
    rounding_cents: int
    operation: str
    k_symbol: str
    partner_bank: str

    def __str__(self) -> str:
        return f"row {self.number} (trans_id {self.trans_id}, account {self.account})"

    @property
    def account(self) -> str:
        """The customer's account."""
        return f"berka:{self.account_id}"

    @property
    def counter_account(self) -> str:
        """
        The other side.

        Raises:
            ValueError: The row does not say who that is.
        """
        pattern = COUNTER_ACCOUNTS.get((self.operation, self.k_symbol))
        if pattern is None:
            raise ValueError(f"no counter account for operation {self.operation!r}, k_symbol {self.k_symbol!r}")
        if pattern == PARTNER_BANK and not self.partner_bank:
            raise ValueError(f"operation {self.operation!r} names no partner bank")
        return pattern.format(partner_bank=self.partner_bank)

    @property
    def metadata(self) -> dict[str, str]:
        """What the row says beside the money."""
        said = {"date": self.date, "operation": self.operation, "purpose": self.k_symbol}
        return {name: text for name, text in said.items() if text}


# The rows of one customer's account, in the order in which they are posted.
Book = list[Row]


def transfers(row: Row) -> tuple[Transfer, ...]:
    """The transfer that a row stands for, and a second one for what the bank rounded away."""
    key, amount = f"berka:{row.trans_id}", row.amount_cents
    moved = _move(key, row, row.counter_account, amount if row.sign == "+" else -amount)
    if row.rounding_cents == 0:
        return (moved,)
    return (moved, _move(f"{key}:rounding", row, ROUNDING, row.rounding_cents))


def _move(key: str, row: Row, other: str, signed_amount: int) -> Transfer:
    into_the_account = signed_amount > 0
    return Transfer(
        key=key,
        source=other if into_the_account else row.account,
        destination=row.account if into_the_account else other,
        amount=abs(signed_amount),
        reference=f"berka:{row.trans_id}",
        metadata=row.metadata,
    )


def read_rows(path: Path, rows_max: int | None = None) -> list[Row]:
    """
    The first *rows_max* rows of the file (all of them when None), plain or gzipped.

    Raises:
        DataError: There is no such file, or it holds something else.
    """
    try:
        with _text(path) as text:
            return list(_rows(csv.DictReader(text), rows_max))
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}; --data names another") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def books(rows: Iterable[Row]) -> list[Book]:
    """The rows by account, each account in *seq* order, the longest book first."""
    by_account: dict[str, Book] = {}
    for row in rows:
        by_account.setdefault(row.account, []).append(row)
    every = [sorted(book, key=lambda row: row.seq) for book in by_account.values()]
    # A book goes one row after the other: a long one that started last would run on alone.
    return sorted(every, key=len, reverse=True)


def accounts(rows: Iterable[Row]) -> list[str]:
    """Every account that the rows need, in the order in which it first appears."""
    every = (transfer for row in rows for transfer in transfers(row))
    return list(dict.fromkeys(name for transfer in every for name in (transfer.source, transfer.destination)))


def _text(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(reader: "csv.DictReader[str]", rows_max: int | None) -> Iterator[Row]:
    columns = [name for name in Row.__struct_fields__ if name != "number"]
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"the data file has no column {', '.join(missing)}")
    for number, record in enumerate(reader, start=1):
        if rows_max is not None and number > rows_max:
            return
        try:
            named = {name: record[name].strip() for name in columns}
            row = msgspec.convert({**named, "number": number}, Row, strict=False)
            # Said while the file is read, not in the midst of posting it.
            _ = row.counter_account
        except AttributeError:
            raise DataError(f"row {number} of the data file is cut short") from None
        except ValueError as error:
            raise DataError(f"row {number} of the data file: {error}") from error
        yield row
