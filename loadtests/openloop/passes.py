"""
The two passes over the bank's books: posting every row, then posting all of it again.

An account's rows go one after the other, in order; many accounts are on their way at once.
"""

import hashlib
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec

from loadtests.client import Client, ClientError
from loadtests.openloop.berka import Book, Row, Transfer, transfers

# Enough to see a pattern; more of the same would only hide it.
MISMATCHES_MAX = 20
# A set of rows with their roundings stays far below the contract's 1000 items and 1 MiB.
BULK_ROWS_MAX = 50
SIDES = ("source", "destination")


class Mismatch(NamedTuple):
    """A check that did not hold: what was looked at, what it should be, what it is."""

    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, got {self.got}"


class Stand(NamedTuple):
    """An account's balance at one of its versions."""

    version: int
    balance: int

    def __str__(self) -> str:
        return f"balance {self.balance} at version {self.version}"


Account = dict[str, Any]
Accounts = Mapping[str, Account]


def stand_of(account: Account) -> Stand:
    """Return the balance and the version of an account as it is listed."""
    return Stand(account["version"], account["balance"])


@dataclass
class Tally:
    """What one pass has done so far."""

    mismatches: list[Mismatch] = field(default_factory=list)
    rows: int = 0
    transfers: int = 0
    already_bound: int = 0
    started: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Transfers a second since the pass began, or over all of it once it has ended."""
        seconds = self.seconds or time.perf_counter() - self.started
        return self.transfers / seconds if seconds > 0 else 0.0

    @property
    def stopped_early(self) -> bool:
        """Whether too many mismatches were found to go on."""
        return len(self.mismatches) >= MISMATCHES_MAX


class Heard(NamedTuple):
    """The answer to one transfer, alone or in a set, with the bytes as they were received."""

    status: int
    body: bytes
    replayed: bool
    repeated: bool

    @property
    def digest(self) -> bytes:
        """What tells it from another answer."""
        return hashlib.sha256(b"%d\n" % self.status + self.body).digest()


class _Item(msgspec.Struct):
    status: int
    replayed: bool
    transfer: msgspec.Raw


class _Set(msgspec.Struct):
    results: list[_Item]


T = TypeVar("T")
Check = Callable[[Tally, Row, Transfer, Heard], None]


class Passes:
    """
    Both passes over the same books through one client.

    Attributes:
        digests: Of the first answer, by key.

        stands: The last one that an answer has told of each account.
    """

    def __init__(self, client: Client, books: Sequence[Book], accounts_at_once: int, bulk: bool) -> None:
        self._client = client
        self._books = books
        self._accounts_at_once = accounts_at_once
        self._rows_at_once = BULK_ROWS_MAX if bulk else 1
        self._post: Callable[[Client, Sequence[Transfer]], Awaitable[list[Heard]]] = post_set if bulk else post_each
        self.digests: dict[str, bytes] = {}
        self.stands: dict[str, Stand] = {}

    async def first(self, tally: Tally) -> None:
        """Post every row; after each the account must stand where the bank says it stood."""
        await self._run(tally, self._check_first)

    async def again(self, tally: Tally) -> None:
        """Post every row under the same key; each must get its first answer, marked as replayed."""
        await self._run(tally, self._check_again)

    async def _run(self, tally: Tally, check: Check) -> None:
        waiting = iter(self._books)

        async def worker() -> None:
            # The iterator is shared: each book is taken by the next worker that is free.
            for book in waiting:
                for start in range(0, len(book.rows), self._rows_at_once):
                    if tally.stopped_early:
                        return
                    await self._post_rows(book.rows[start : start + self._rows_at_once], tally, check)

        tally.started = time.perf_counter()
        try:
            async with TaskGroup() as group:
                for _ in range(min(self._accounts_at_once, len(self._books))):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            # The workers fail alike; the first error says what happened.
            raise errors.exceptions[0] from None
        finally:
            tally.seconds = time.perf_counter() - tally.started

    async def _post_rows(self, rows: Sequence[Row], tally: Tally, check: Check) -> None:
        asked = [(row, transfer) for row in rows for transfer in transfers(row)]
        answers = await self._post(self._client, [transfer for _, transfer in asked])
        for (row, transfer), answer in zip(asked, answers, strict=True):
            check(tally, row, transfer, answer)
        tally.rows += len(rows)
        tally.transfers += len(asked)

    def _check_first(self, tally: Tally, row: Row, transfer: Transfer, answer: Heard) -> None:
        self.digests[transfer.key] = answer.digest
        # A replay after an attempt without an answer is this run's own transfer.
        tally.already_bound += answer.replayed and not answer.repeated
        posted = _decoded(answer.body, dict[str, Any])
        for side in SIDES:
            self._remember(posted[side], Stand(posted[f"{side}_version"], posted[f"{side}_balance"]))
        told = (posted["source"], posted["destination"], posted["amount"])
        asked = (transfer.source, transfer.destination, transfer.amount)
        if told != asked:
            tally.mismatches.append(Mismatch(f"{row}, the transfer", f"{asked}", f"{told}"))
        if transfer.key != transfers(row)[-1].key:
            return
        balance = posted[f"{SIDES[transfer.source != row.account]}_balance"]
        if balance != row.balance_after:
            tally.mismatches.append(Mismatch(f"{row}, balance", f"{row.balance_after}", f"{balance}"))

    def _remember(self, account: str, stand: Stand) -> None:
        known = self.stands.get(account)
        # Answers about a shared account arrive in any order; its versions tell the last one.
        if known is None or stand.version > known.version:
            self.stands[account] = stand

    def _check_again(self, tally: Tally, row: Row, transfer: Transfer, answer: Heard) -> None:
        what = f"{row}, key {transfer.key} again"
        if not answer.replayed:
            tally.mismatches.append(Mismatch(what, "a replayed answer", "one not marked as such"))
        elif answer.digest != self.digests[transfer.key]:
            tally.mismatches.append(Mismatch(what, "the first answer's status and bytes", f"others ({answer.status})"))


async def post_each(client: Client, some: Sequence[Transfer]) -> list[Heard]:
    """Post transfers one after the other."""
    answers = [await client.call("POST", "/v1/transfers", transfer.fields(), transfer.key) for transfer in some]
    return [Heard(answer.status, answer.body, answer.replayed, answer.repeated) for answer in answers]


async def post_set(client: Client, some: Sequence[Transfer]) -> list[Heard]:
    """Post transfers in order, all or none."""
    asked = {"atomic": True, "transfers": [{"key": transfer.key, **transfer.fields()} for transfer in some]}
    items = [f"key {transfer.key}" for transfer in some]
    answer = await client.call("POST", "/v1/transfers/bulk", asked, items=items)
    results = _decoded(answer.body, _Set).results
    return [Heard(item.status, bytes(item.transfer), item.replayed, answer.repeated) for item in results]


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ClientError(f"an answer is something else: {error}") from error


async def read_accounts(client: Client) -> Accounts:
    """Return every account of the ledger by its id."""
    return {account["id"]: account async for account in client.pages("/v1/accounts")}


def sums_are_zero(accounts: Accounts, when: str) -> list[Mismatch]:
    """In each currency what some accounts have is what the others lack."""
    sums: Counter[str] = Counter()
    for account in accounts.values():
        sums[account["currency"]] += account["balance"]
    what = "sum of all {} balances after {}"
    return [Mismatch(what.format(currency, when), "0", str(total)) for currency, total in sums.items() if total]


def stands_are_as_answered(accounts: Accounts, stands: Mapping[str, Stand]) -> list[Mismatch]:
    """No account reads older than its last answer, nor otherwise at the same version."""
    found = []
    for name, stand in stands.items():
        account = accounts.get(name)
        if account is None:
            found.append(Mismatch(f"account {name}", "to be listed", "nothing"))
        # A later version belongs to somebody else's transfer, or to an earlier, longer replay.
        elif account["version"] <= stand.version and stand_of(account) != stand:
            found.append(Mismatch(f"account {name}", str(stand), str(stand_of(account))))
    return found


def nothing_changed(before: Accounts, after: Accounts, names: Iterable[str]) -> list[Mismatch]:
    """The named accounts have the version and the balance that they had."""
    found = []
    for name in names:
        was, now = (stand_of(accounts[name]) if name in accounts else None for accounts in (before, after))
        if was is not None and now != was:
            found.append(Mismatch(f"account {name} after the replay", str(was), str(now or "nothing")))
    return found
