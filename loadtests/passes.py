"""
The two passes over the bank's books: posting every row, then posting all of it again.

An account's rows go one after the other, in order; many accounts are on their way at once.
"""

import hashlib
import time
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from loadtests.answers import Answer, ClientError
from loadtests.berka import Book, Row, Transfer, transfers
from loadtests.client import LedgerClient

# Enough to see a pattern; more of the same would only hide it.
MISMATCHES_MAX = 20
# A set of rows with their roundings stays far below the contract's 1000 items and 1 MiB.
BULK_ROWS_MAX = 50

Post = Callable[[Sequence[Transfer]], Awaitable[list[Answer]]]


class Mismatch(msgspec.Struct, frozen=True):
    """A check that did not hold: what was looked at, what it should be, what it is."""

    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, got {self.got}"


class Stand(msgspec.Struct, frozen=True):
    """An account's balance at one of its versions."""

    version: int
    balance: int


class Tally(msgspec.Struct):
    """What one pass has done so far."""

    mismatches: list[Mismatch]
    rows: int = 0
    transfers: int = 0
    already_bound: int = 0
    started: float = 0.0
    seconds: float = 0.0

    def rate(self) -> float:
        """Transfers a second since the pass began, or over all of it once it has ended."""
        seconds = self.seconds or time.perf_counter() - self.started
        return self.transfers / seconds if seconds > 0 else 0.0

    @property
    def stopped_early(self) -> bool:
        """Too many mismatches were found to go on."""
        return len(self.mismatches) >= MISMATCHES_MAX


class Memory(msgspec.Struct):
    """What the first pass leaves for later checks: a digest per key, a last stand per account."""

    digests: dict[str, bytes]
    stands: dict[str, Stand]


class _Posted(msgspec.Struct):
    source: str
    destination: str
    amount: int
    source_balance: int
    destination_balance: int
    source_version: int
    destination_version: int


class Passes:
    """Both passes over the same books through one client."""

    def __init__(self, client: LedgerClient, books: Sequence[Book], accounts_at_once: int, bulk: bool) -> None:
        self._client = client
        self._books = books
        self._accounts_at_once = accounts_at_once
        self._rows_at_once = BULK_ROWS_MAX if bulk else 1
        self._post: Post = self._post_set if bulk else self._post_each
        self.memory = Memory(digests={}, stands={})

    async def first(self, tally: Tally) -> None:
        """Post every row; after each the account must stand where the bank says it stood."""
        await self._run(tally, self._check_first)

    async def again(self, tally: Tally) -> None:
        """Post every row under the same key; each must get its first answer, marked as replayed."""
        await self._run(tally, self._check_again)

    async def _run(self, tally: Tally, check: Callable[[Tally, Row, Transfer, Answer], None]) -> None:
        waiting = iter(self._books)

        async def worker() -> None:
            # The iterator is shared: each book is taken by the next worker that is free.
            for book in waiting:
                for rows in _chunks(book.rows, self._rows_at_once):
                    if tally.stopped_early:
                        return
                    await self._post_rows(rows, tally, check)

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

    async def _post_rows(
        self,
        rows: Sequence[Row],
        tally: Tally,
        check: Callable[[Tally, Row, Transfer, Answer], None],
    ) -> None:
        asked = [(row, transfer) for row in rows for transfer in transfers(row)]
        answers = await self._post([transfer for _, transfer in asked])
        for (row, transfer), answer in zip(asked, answers, strict=True):
            check(tally, row, transfer, answer)
        tally.rows += len(rows)
        tally.transfers += len(asked)

    async def _post_each(self, some: Sequence[Transfer]) -> list[Answer]:
        return [await self._client.post_transfer(transfer.key, transfer.fields()) for transfer in some]

    async def _post_set(self, some: Sequence[Transfer]) -> list[Answer]:
        return await self._client.post_set([(item.key, item.fields()) for item in some])

    def _check_first(self, tally: Tally, row: Row, transfer: Transfer, answer: Answer) -> None:
        self.memory.digests[transfer.key] = _digest(answer)
        # A replay after an attempt without an answer is this run's own transfer.
        tally.already_bound += answer.replayed and not answer.repeated
        posted = _posted(transfer, answer)
        self._remember(posted.source, posted.source_version, posted.source_balance)
        self._remember(posted.destination, posted.destination_version, posted.destination_balance)
        told = (posted.source, posted.destination, posted.amount)
        asked = (transfer.source, transfer.destination, transfer.amount)
        if told != asked:
            tally.mismatches.append(Mismatch(f"{row}, the transfer", f"{asked}", f"{told}"))
        if transfer.key != transfers(row)[-1].key:
            return
        out = transfer.source == row.account
        balance = posted.source_balance if out else posted.destination_balance
        if balance != row.balance_after:
            tally.mismatches.append(Mismatch(f"{row}, balance", f"{row.balance_after}", f"{balance}"))

    def _remember(self, account: str, version: int, balance: int) -> None:
        known = self.memory.stands.get(account)
        # Answers about a shared account arrive in any order; its versions tell the last one.
        if known is None or version > known.version:
            self.memory.stands[account] = Stand(version, balance)

    def _check_again(self, tally: Tally, row: Row, transfer: Transfer, answer: Answer) -> None:
        what = f"{row}, key {transfer.key} again"
        if not answer.replayed:
            tally.mismatches.append(Mismatch(what, "a replayed answer", "one not marked as such"))
        elif _digest(answer) != self.memory.digests[transfer.key]:
            tally.mismatches.append(Mismatch(what, "the first answer's status and bytes", f"others ({answer.status})"))


def _chunks(rows: Sequence[Row], size: int) -> Iterator[tuple[Row, ...]]:
    waiting: Iterable[Row] = iter(rows)
    while chunk := tuple(islice(waiting, size)):
        yield chunk


def _digest(answer: Answer) -> bytes:
    return hashlib.sha256(b"%d\n" % answer.status + answer.body).digest()


def _posted(transfer: Transfer, answer: Answer) -> _Posted:
    try:
        return msgspec.json.decode(answer.body, type=_Posted)
    except msgspec.DecodeError as error:
        raise ClientError(f"the answer for {transfer.key} is no transfer: {error}") from error
