"""
Post a real bank's books through the HTTP API and compare every answer with the bank's own figures.

After each row, posted with the bank's date, the account's balance must be the bank's. The sum of all balances must be
zero. By the bank's dates, each account must have the bank's balance at the end of each month. Then everything is posted
again under the same keys: it must get the same answers, marked as replayed, and change no account. A server that was
started for the replay is audited at the end.
"""

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from loadtests.books import ITEMS_MAX, open_accounts, patient
from loadtests.errors import FAILED, GOOD, NotRunError
from loadtests.openloop.berka import CURRENCY, Book, Row, books, read_rows, transfers
from loadtests.processes import PROJECT
from loadtests.screen import Screen
from loadtests.servers import own_server
from tallystick_client import AsyncTallystick, Transfer, TransferItem, TransferResult

LEDGER = "berka"
KEY_VARIABLE = "TALLYSTICK_KEY"
DATA = PROJECT.parent / "shared" / "data" / "berka" / "replay.csv.gz"
# Accounts that are posted to at once.
IN_FLIGHT = 16
# Mismatches that are shown: enough to see a pattern.
MISMATCHES_MAX = 20
T = TypeVar("T")


Check = Callable[[Row, TransferItem, TransferResult, Transfer], None]


class Replay:
    """
    Makes both passes over the same books.

    Posts an account's rows one after the other, and many accounts at once. `mismatches`: what did not match.
    """

    def __init__(self, ledger: AsyncTallystick, rows: Sequence[Row], screen: Screen) -> None:
        self.mismatches: list[str] = []
        self.rows = self.transfers = 0
        self._ledger = ledger
        self._books = books(rows)
        every = (transfer for row in rows for transfer in transfers(row))
        # Each account once, in the order in which they first appear.
        self._names = list(dict.fromkeys(name for each in every for name in (each.source, each.destination)))
        self._screen = screen
        # Hashes of the first answers, by key.
        self._answers: dict[str, int] = {}

    @property
    def _stopped(self) -> bool:
        return len(self.mismatches) >= MISMATCHES_MAX

    def _expect(self, what: str, expected: object, got: object) -> None:
        if expected != got:
            self.mismatches.append(f"{what}: expected {expected}, got {got}")

    async def run(self) -> None:
        """Make both passes, and the checks after each."""
        await open_accounts(self._ledger, self._names, CURRENCY)
        self._screen.say(f"{len(self._names)} accounts are open")
        await self._post_all("first pass", self._check_first)
        if self._stopped:
            return
        before = await self._read_accounts("first pass")
        await self._check_months()
        await self._post_all("replay", self._check_again)
        after = await self._read_accounts("replay")
        for name in self._names:
            self._expect(f"account {name} after the replay", before.get(name), after.get(name))

    async def _read_accounts(self, when: str) -> dict[str, str]:
        """Return the balance of every account; the balances of each currency must sum to zero."""
        sums: Counter[str] = Counter()
        found = {}
        async for account in self._ledger.accounts.list():
            sums[account.currency] += account.balance
            found[account.id] = f"balance {account.balance} at version {account.version}"
        for currency, total in sums.items():
            self._expect(f"sum of all {currency} balances after the {when}", 0, total)
        return found

    async def _post_all(self, name: str, check: Check) -> None:
        began, transfers_before = time.perf_counter(), self.transfers
        await _at_once(self._books, lambda book: self._post_book(book, name, check))
        seconds, posted = time.perf_counter() - began, self.transfers - transfers_before
        early = ", stopped early: too many mismatches" if self._stopped else ""
        self._screen.say(f"{name}: {posted:,} transfers in {seconds:.1f} s, {posted / seconds:,.0f}/s{early}")

    async def _check_months(self) -> None:
        """
        Check that each account stood where the bank says at the end of each month, by the bank's dates and not ours.
        """
        # The last row of each month gives the balance at its end.
        ends = [end for book in self._books for end in {row.month_end: row for row in book}.items()]

        async def check(end: tuple[datetime, Row]) -> None:
            at, row = end
            if self._stopped:
                return
            found = await self._ledger.accounts.balance(row.account, at, by="effective")
            self._expect(f"{row}, balance at the end of its month", row.bank_balance_cents, found.balance)

        await _at_once(ends, check)
        self._screen.say(f"{len(ends):,} balances at the end of a month read")

    async def _post_book(self, book: Book, name: str, check: Check) -> None:
        posted = [(row, transfer) for row in book for transfer in transfers(row)]
        for start in range(0, len(posted), ITEMS_MAX):
            if self._stopped:
                return
            some = posted[start : start + ITEMS_MAX]
            results = await self._ledger.transfers.create_many([transfer for _, transfer in some])
            for (row, transfer), result in zip(some, results, strict=True):
                if len(self.mismatches) >= MISMATCHES_MAX:
                    return
                if result.transfer is None:
                    # The bank made this payment and the ledger refused it.
                    self.mismatches.append(f"{row}, key {transfer.key}: {result.problem}")
                else:
                    check(row, transfer, result, result.transfer)
                self.transfers += 1
                self.rows += transfer.key == transfers(row)[-1].key
            self._screen.progress(f"{name}: {self.transfers:,} transfers, {len(self.mismatches)} mismatches")

    def _check_first(self, row: Row, transfer: TransferItem, _: TransferResult, posted: Transfer) -> None:
        """Check that the account's balance after this row is the bank's."""
        self._answers[transfer.key] = hash(msgspec.json.encode(posted))
        asked = (transfer.source, transfer.destination, transfer.amount)
        self._expect(f"{row}, the transfer", asked, (posted.source, posted.destination, posted.amount))
        if transfer.key == transfers(row)[-1].key:
            balance = posted.source_balance if transfer.source == row.account else posted.destination_balance
            self._expect(f"{row}, balance", row.bank_balance_cents, balance)

    def _check_again(self, row: Row, transfer: TransferItem, result: TransferResult, posted: Transfer) -> None:
        """Check that the answer is the first one, marked as replayed."""
        what = f"{row}, key {transfer.key} again"
        if not result.replayed:
            self._expect(what, "a replayed answer", "one not marked as such")
        elif hash(msgspec.json.encode(posted)) != self._answers[transfer.key]:
            self._expect(what, "the first answer", "another")


async def _at_once(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for all items, IN_FLIGHT at once."""
    waiting = iter(items)

    async def worker() -> None:
        # The workers share the iterator: the next free worker takes the next item.
        for item in waiting:
            await work(item)

    # All workers fail for the same reason; the first error says what happened.
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


def options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Without --url it starts a server of its own and audits it at the end."
    add = parser.add_argument
    add("--url", help="a running server, such as http://127.0.0.1:8080")
    add("--key", default=os.environ.get(KEY_VARIABLE), help=f"a write key of the ledger; or set {KEY_VARIABLE}")
    add("--data", type=Path, default=DATA, help="the books; default %(default)s")
    add("--rows", type=int, help="only the first ROWS rows")


async def run(asked: argparse.Namespace) -> int:
    """Replay the books; return FAILED if a check failed."""
    screen = Screen()
    if asked.url and not asked.key:
        raise NotRunError(f"--url needs --key or {KEY_VARIABLE}")
    rows = read_rows(asked.data, asked.rows)
    if not rows:
        raise NotRunError(f"{asked.data} has no rows")
    async with nullcontext() if asked.url else own_server() as server:
        url, key = (server.url, await server.create_key(LEDGER)) if server else (asked.url, asked.key)
        async with patient(url, key) as ledger:
            found = Replay(ledger, rows, screen)
            await found.run()
        audit = await server.audit() if server else None
    for mismatch in found.mismatches:
        screen.say(f"MISMATCH {mismatch}")
    screen.say(f"{found.rows:,} of twice {len(rows):,} rows posted, {len(found.mismatches)} mismatches")
    screen.say(f"audit: {audit.last_line if audit else 'not run; run `tallystick audit` yourself'}")
    return FAILED if found.mismatches or (audit and audit.code) else GOOD
