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

import msgspec

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

COLUMNS = (
    "seq",
    "trans_id",
    "account_id",
    "date",
    "sign",
    "amount_cents",
    "bank_balance_cents",
    "rounding_cents",
    "operation",
    "k_symbol",
    "partner_bank",
)


class DataError(Exception):
    """The data file is absent, is not the expected CSV, or has a row that has no meaning here."""


class Transfer(msgspec.Struct, frozen=True):
    """One transfer to post, with the idempotency key it is posted under."""

    key: str
    source: str
    destination: str
    amount: int
    reference: str
    metadata: dict[str, str]

    def fields(self) -> dict[str, object]:
        """The body of `POST /v1/transfers`; the same transfer always gives the same fields."""
        return {
            "source": self.source,
            "destination": self.destination,
            "amount": self.amount,
            "currency": CURRENCY,
            "reference": self.reference,
            "metadata": self.metadata,
        }


class Row(msgspec.Struct, frozen=True):
    """One line of the bank's books; *number* counts the rows of the file from 1."""

    number: int
    seq: int
    trans_id: str
    account: str
    counter_account: str
    paid_in: bool
    amount: int
    rounding: int
    balance_after: int
    metadata: dict[str, str]

    def __str__(self) -> str:
        return f"row {self.number} (trans_id {self.trans_id}, account {self.account})"


class Book(msgspec.Struct, frozen=True):
    """All rows of one customer's account, in the order in which they are posted."""

    account: str
    rows: tuple[Row, ...]


def transfers(row: Row) -> tuple[Transfer, ...]:
    """The transfer that a row stands for, and a second one for what the bank rounded away."""
    key = f"berka:{row.trans_id}"
    moved = _move(key, row, row.counter_account, row.amount if row.paid_in else -row.amount)
    if row.rounding == 0:
        return (moved,)
    return (moved, _move(f"{key}:rounding", row, ROUNDING, row.rounding))


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
    """The first *rows_max* rows of the file (all of them when None), plain or gzipped."""
    try:
        with _text(path) as text:
            return list(_rows(csv.DictReader(text), rows_max))
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}; --data names another") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def books(rows: Iterable[Row]) -> list[Book]:
    """The rows by account, each account in *seq* order, the longest book first."""
    by_account: dict[str, list[Row]] = {}
    for row in rows:
        by_account.setdefault(row.account, []).append(row)
    every = [Book(account, tuple(sorted(lines, key=lambda row: row.seq))) for account, lines in by_account.items()]
    # A book goes one row after the other: a long one that started last would run on alone.
    return sorted(every, key=lambda book: len(book.rows), reverse=True)


def accounts(rows: Iterable[Row]) -> list[str]:
    """Every account that the rows need, in the order in which it first appears."""
    needed: dict[str, None] = {}
    for row in rows:
        for transfer in transfers(row):
            needed[transfer.source] = None
            needed[transfer.destination] = None
    return list(needed)


def _text(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(reader: "csv.DictReader[str]", rows_max: int | None) -> Iterator[Row]:
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"the data file has no column {', '.join(missing)}")
    for number, record in enumerate(reader, start=1):
        if rows_max is not None and number > rows_max:
            return
        if any(record[column] is None for column in COLUMNS):
            raise DataError(f"row {number} of the data file is cut short")
        try:
            yield _row(number, record)
        except ValueError as error:
            raise DataError(f"row {number} of the data file: {error}") from error


def _row(number: int, record: dict[str, str]) -> Row:
    sign, amount = record["sign"], int(record["amount_cents"])
    if sign not in ("+", "-"):
        raise ValueError(f"sign is {sign!r}, not + or -")
    if amount <= 0:
        raise ValueError(f"amount_cents is {amount}, not above zero")
    operation, purpose = record["operation"].strip(), record["k_symbol"].strip()
    described = {"date": record["date"], "operation": operation, "purpose": purpose}
    return Row(
        number=number,
        seq=int(record["seq"]),
        trans_id=record["trans_id"],
        account=f"berka:{record['account_id']}",
        counter_account=_counter_account(operation, purpose, record["partner_bank"].strip()),
        paid_in=sign == "+",
        amount=amount,
        rounding=int(record["rounding_cents"]),
        balance_after=int(record["bank_balance_cents"]),
        metadata={name: text for name, text in described.items() if text},
    )


def _counter_account(operation: str, purpose: str, partner_bank: str) -> str:
    pattern = COUNTER_ACCOUNTS.get((operation, purpose))
    if pattern is None:
        raise ValueError(f"no counter account for operation {operation!r}, k_symbol {purpose!r}")
    if pattern == PARTNER_BANK and not partner_bank:
        raise ValueError(f"operation {operation!r} names no partner bank")
    return pattern.format(partner_bank=partner_bank)
