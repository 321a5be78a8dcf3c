"""The books of a real bank: each row names an account and the bank's own balance after it, so the answer is known."""

import calendar
import csv
import gzip
import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from loadtests.errors import NotRunError
from loadtests.figures import grouped
from tallystick_client import TransferItem

CURRENCY = "CZK"
ROUNDING = "rounding"
# The other side of a transfer to or from another bank: one account for each partner bank.
PARTNER_BANK = "bank:{partner_bank}"

# The other side of a row, by (operation, k_symbol). The purpose decides where it says that the bank itself pays or
# earns; otherwise the operation decides. A pair that is not listed is refused rather than guessed.
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


class Row(msgspec.Struct, frozen=True):
    """One line of the bank's books, with the names of its columns; *number* counts the rows of the file from 1."""

    number: int
    seq: int
    trans_id: str
    account_id: str
    date: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{6}$")]
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
        return f"berka:{self.account_id}"

    @property
    def day(self) -> str:
        """The day of the row, as YYYY-MM-DD; the books are from the nineties."""
        return f"19{self.date[:2]}-{self.date[2:4]}-{self.date[4:]}"

    @property
    def month_end(self) -> datetime:
        """The last instant of its month."""
        year, month, _ = map(int, self.day.split("-"))
        return datetime.fromisoformat(f"{self.day[:8]}{calendar.monthrange(year, month)[1]}T23:59:59.999999Z")

    @property
    def counter_account(self) -> str:
        """The other side; raises ValueError if the row does not say who that is."""
        pattern = COUNTER_ACCOUNTS.get((self.operation, self.k_symbol))
        if pattern is None:
            raise ValueError(f"no counter account for operation {self.operation!r}, k_symbol {self.k_symbol!r}")
        if pattern == PARTNER_BANK and not self.partner_bank:
            raise ValueError(f"operation {self.operation!r} names no partner bank")
        return pattern.format(partner_bank=self.partner_bank)


# The rows of one customer's account, in the order in which they are posted.
Book = list[Row]


def transfers(row: Row) -> tuple[TransferItem, ...]:
    """The transfer for a row, and a second one if the bank rounded its balance."""
    key, sign = f"berka:{row.trans_id}", 1 if row.sign == "+" else -1
    moved = _move(key, row, row.counter_account, sign * row.amount_cents)
    if row.rounding_cents == 0:
        return (moved,)
    return (moved, _move(f"{key}:rounding", row, ROUNDING, row.rounding_cents))


def _move(key: str, row: Row, other: str, signed_amount: int) -> TransferItem:
    sides = (other, row.account) if signed_amount > 0 else (row.account, other)
    said = {"operation": row.operation, "purpose": row.k_symbol}
    metadata = {name: text for name, text in said.items() if text}
    return TransferItem(
        *sides,
        abs(signed_amount),
        CURRENCY,
        key=key,
        reference=f"berka:{row.trans_id}",
        metadata=metadata,
        effective_at=datetime.fromisoformat(f"{row.day}T00:00:00Z"),
    )


def read_rows(path: Path, rows_max: int | None = None) -> list[Row]:
    """The first *rows_max* rows of the file (all of them when None), plain or gzipped."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as text:
            return list(_rows(csv.DictReader(text), rows_max))
    except FileNotFoundError:
        raise NotRunError(f"there is no data file {path}; --data names another") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise NotRunError(f"{path} cannot be read: {error}") from error


def books(rows: Iterable[Row]) -> list[Book]:
    """The rows by account, each account in *seq* order, the longest book first."""
    by_account = grouped(sorted(rows, key=lambda row: row.seq), lambda row: row.account)
    # The rows of a book are posted one after the other, so a long book that started last would run on alone.
    return sorted(by_account.values(), key=len, reverse=True)


def _rows(reader: "csv.DictReader[str]", rows_max: int | None) -> Iterator[Row]:
    for number, record in enumerate(itertools.islice(reader, rows_max), start=1):
        try:
            row = msgspec.convert({**record, "number": number}, Row, strict=False)
            # Raises for a bad row while the file is read, before anything is posted.
            _ = row.counter_account
        except ValueError as error:
            raise NotRunError(f"row {number} of the data file: {error}") from error
        yield row
