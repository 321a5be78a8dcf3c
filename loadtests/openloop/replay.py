"""
Feed a real bank's books through the HTTP API and hold every answer against the bank's own figures.

1. Open every account the books need. 2. Post every row, each account in order: after each row the
account's balance is the bank's. 3. The sum of all balances is zero. 4. Post everything again under
the same keys: the same answers, marked as replayed, and no account has changed. 5. The audit.

Exit codes: 0 all of it holds, 1 a check failed, 2 it could not be run, 130 interrupted.
"""

import argparse
import asyncio
import hashlib
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from loadtests.arguments import positive
from loadtests.client import Client, ClientError, GaveUp, NoAnswer, UnexpectedAnswer
from loadtests.errors import FAILED, GOOD, NotRunError
from loadtests.openloop.berka import CURRENCY, Book, DataError, Row, Transfer, accounts, books, read_rows, transfers
from loadtests.processes import PROJECT, Done, ServerError, run_command, tail
from loadtests.screen import Screen
from loadtests.servers import AUDIT_SECONDS_MAX, Server, own_server

LEDGER = "berka"
KEY_VARIABLE = "TALLYSTICK_KEY"
DATA = PROJECT.parent / "shared" / "data" / "berka" / "replay.csv.gz"
IN_FLIGHT = 64
# One connection each: with more, file descriptors run out before the server does.
IN_FLIGHT_MAX = 512
# Enough to see a pattern; more of the same would only hide it.
MISMATCHES_MAX = 20
# A set of rows with their roundings stays far below the contract's 1000 items and 1 MiB.
BULK_ROWS_MAX = 50
SIDES = ("source", "destination")
T = TypeVar("T")


class Stand(NamedTuple):
    """An account's balance at one of its versions."""

    version: int
    balance: int

    def __str__(self) -> str:
        return f"balance {self.balance} at version {self.version}"


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


@dataclass
class Pass:
    """What one pass over the books has done so far, and the checks in it that did not hold."""

    name: str
    mismatches: list[str] = field(default_factory=list)
    rows: int = 0
    transfers: int = 0
    already_bound: int = 0
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Transfers a second since the pass began, or over all of it once it has ended."""
        return self.transfers / (self.seconds or time.perf_counter() - self.began)

    @property
    def stopped_early(self) -> bool:
        """Whether too many mismatches were found to go on."""
        return len(self.mismatches) >= MISMATCHES_MAX

    def expect(self, what: str, expected: object, got: object) -> None:
        """Note it where something is not what it should be."""
        if expected != got:
            self.mismatches.append(f"{what}: expected {expected}, got {got}")

    def __str__(self) -> str:
        early = ", stopped early: too many mismatches" if self.stopped_early else ""
        return f"{self.rate:,.0f} transfers/s, {self.seconds:.1f} s{early}"


Check = Callable[[Pass, Row, Transfer, Heard], None]


class Replay:
    """
    Both passes over the same books through one client.

    An account's rows go one after the other, in order; many accounts are on their way at once.

    Attributes:
        passes: Those that were made.

        accounts: How many accounts were read after the first pass.
    """

    def __init__(self, client: Client, rows: Sequence[Row], options: argparse.Namespace, screen: Screen) -> None:
        self.passes: list[Pass] = []
        self.accounts = 0
        self._client = client
        self._rows = rows
        self._books = books(rows)
        self._in_flight: int = options.in_flight
        self._rows_at_once = BULK_ROWS_MAX if options.bulk else 1
        self._post = post_set if options.bulk else post_each
        self._screen = screen
        # Of the first answer, by key; and what the last answer has told, by account.
        self._digests: dict[str, bytes] = {}
        self._stands: dict[str, Stand] = {}

    async def run(self) -> None:
        """Make both passes, and the checks behind each."""
        names = accounts(self._rows)
        try:
            await self._client.ask("GET", "/v1/accounts?limit=1")
        except NoAnswer as error:
            raise GaveUp(f"the server cannot be reached: {error}") from error
        await self._client.open_accounts(names, CURRENCY)
        self._screen.say(f"{len(names)} accounts are open")
        first = await self._pass("first pass", self._check_first)
        if first.already_bound == first.transfers:
            self._screen.say("every key was bound before this run: the file is already in this ledger")
        elif first.already_bound:
            self._screen.say(f"{first.already_bound:,} keys were bound before this run: part of the file")
        if first.stopped_early:
            return
        before = await self._read_accounts(first)
        self.accounts = len(before)
        for name, stand in self._stands.items():
            found = before.get(name)
            # A later version belongs to somebody else's transfer, or to an earlier, longer replay.
            if found is None or found.version <= stand.version:
                first.expect(f"account {name}", stand, found or "nothing")
        again = await self._pass("replay", self._check_again)
        after = await self._read_accounts(again)
        for name in names:
            if name in before:
                again.expect(f"account {name} after the replay", before[name], after.get(name, "nothing"))

    async def _read_accounts(self, done: Pass) -> dict[str, Stand]:
        """Return every account of the ledger; in each currency what some have is what the others lack."""
        sums: Counter[str] = Counter()
        found = {}
        async for account in self._client.pages("/v1/accounts"):
            sums[account["currency"]] += account["balance"]
            found[account["id"]] = Stand(account["version"], account["balance"])
        for currency, total in sums.items():
            done.expect(f"sum of all {currency} balances after the {done.name}", 0, total)
        return found

    async def _pass(self, name: str, check: Check) -> Pass:
        done = Pass(name)
        self.passes.append(done)
        waiting = iter(self._books)

        async def worker() -> None:
            # The iterator is shared: each book is taken by the next worker that is free.
            for book in waiting:
                await self._post_book(book, done, check)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._in_flight, len(self._books))):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            # The workers fail alike; the first error says what happened.
            raise errors.exceptions[0] from None
        finally:
            done.seconds = time.perf_counter() - done.began
            self._screen.say(self._line(done))
        return done

    async def _post_book(self, book: Book, done: Pass, check: Check) -> None:
        for start in range(0, len(book), self._rows_at_once):
            if done.stopped_early:
                return
            rows = book[start : start + self._rows_at_once]
            asked = [(row, transfer) for row in rows for transfer in transfers(row)]
            answers = await self._post(self._client, [transfer for _, transfer in asked])
            for (row, transfer), answer in zip(asked, answers, strict=True):
                check(done, row, transfer, answer)
            done.rows += len(rows)
            done.transfers += len(asked)
            self._screen.progress(self._line(done))

    def _check_first(self, done: Pass, row: Row, transfer: Transfer, answer: Heard) -> None:
        """After each row the account must stand where the bank says it stood."""
        self._digests[transfer.key] = answer.digest
        # A replay after an attempt without an answer is this run's own transfer.
        done.already_bound += answer.replayed and not answer.repeated
        posted = _decoded(answer.body, dict[str, Any])
        for side in SIDES:
            stand = Stand(posted[f"{side}_version"], posted[f"{side}_balance"])
            # Answers about a shared account arrive in any order; its versions tell the last one.
            self._stands[posted[side]] = max(stand, self._stands.get(posted[side], stand))
        asked = (transfer.source, transfer.destination, transfer.amount)
        done.expect(f"{row}, the transfer", asked, (posted["source"], posted["destination"], posted["amount"]))
        if transfer.key == transfers(row)[-1].key:
            side = SIDES[transfer.source != row.account]
            done.expect(f"{row}, balance", row.bank_balance_cents, posted[f"{side}_balance"])

    def _check_again(self, done: Pass, row: Row, transfer: Transfer, answer: Heard) -> None:
        """Each must get its first answer, marked as replayed."""
        what = f"{row}, key {transfer.key} again"
        if not answer.replayed:
            done.expect(what, "a replayed answer", "one not marked as such")
        elif answer.digest != self._digests[transfer.key]:
            done.expect(what, "the first answer's status and bytes", f"others ({answer.status})")

    def _line(self, done: Pass) -> str:
        rows, wrong = f"{done.rows:,} of {len(self._rows):,} rows", f"{len(done.mismatches)} mismatches"
        return f"{done.name}: {rows}, {done.rate:,.0f}/s, {wrong}"

    def summary(self, audit: str) -> dict[str, str]:
        """Return what came of it, by name."""
        first = self.passes[0]
        return {
            "rows": f"{first.rows:,} of {len(self._rows):,}, on {len(self._books):,} accounts",
            "transfers": f"{first.transfers:,}",
            "first pass": str(first),
            "replay": str(self.passes[1]) if len(self.passes) > 1 else "not run",
            "repeats": f"{self._client.repeats:,} after 429, 503 or a lost connection",
            "balances": f"{self.accounts:,} accounts read" if self.accounts else "not read",
            "mismatches": f"{sum(len(done.mismatches) for done in self.passes):,}",
            "audit": audit,
        }


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked for."""
    parser.epilog = "Without --url it starts a server of its own and audits it at the end."
    add = parser.add_argument
    add("--url", help="a running server, such as http://127.0.0.1:8080")
    add("--key", default=os.environ.get(KEY_VARIABLE), help=f"a write key of the ledger; or set {KEY_VARIABLE}")
    add("--data", type=Path, default=DATA, help="the books; default %(default)s")
    add("--rows", type=positive, help="only the first ROWS rows")
    add("--in-flight", type=positive, default=IN_FLIGHT, help=f"accounts posted at once, at most {IN_FLIGHT_MAX}")
    add("--bulk", action="store_true", help="post in atomic sets of several rows")
    add("--audit-command", help="what audits the server at --url, as one string")


async def run(asked: argparse.Namespace) -> int:
    """Replay as it is asked for; FAILED when a check failed."""
    if asked.in_flight > IN_FLIGHT_MAX:
        raise NotRunError(f"--in-flight is at most {IN_FLIGHT_MAX}")
    if asked.url is not None and not asked.url.startswith(("http://", "https://")):
        raise NotRunError("--url starts with http:// or https://")
    if asked.url is not None and not asked.key:
        raise NotRunError(f"--url needs --key or {KEY_VARIABLE}")
    try:
        return await _replay(asked, Screen())
    except ClientError as error:
        if isinstance(error, GaveUp) or (isinstance(error, UnexpectedAnswer) and error.status in (401, 403)):
            raise
        print(f"replay: {error}", file=sys.stderr)
        return FAILED


async def _replay(options: argparse.Namespace, screen: Screen) -> int:
    rows = read_rows(options.data, options.rows)
    if not rows:
        raise DataError(f"{options.data} has no rows")
    if options.url is not None:
        return await _on_server(options, rows, None, screen)
    screen.say("starting a server of its own")
    async with own_server() as server:
        options.url, options.key = server.url, await server.create_key(LEDGER)
        try:
            return await _on_server(options, rows, server, screen)
        except GaveUp as error:
            # Its log is gone with the server, and most likely says why.
            raise ServerError(f"{error}\n{tail(server.log)}") from error


async def _on_server(options: argparse.Namespace, rows: list[Row], own: Server | None, screen: Screen) -> int:
    async with Client(options.url, options.key, options.in_flight) as client:
        replay = Replay(client, rows, options, screen)
        await replay.run()
    done = await _audit(options.audit_command, own)
    failed = done is not None and done.code != 0
    if done is not None and failed:
        screen.say(done.last_lines)
    said = "not run (no --audit-command)" if done is None else f"failed (exit {done.code})" if failed else "clean"
    mismatches = [mismatch for made in replay.passes for mismatch in made.mismatches]
    for mismatch in mismatches:
        screen.say(f"MISMATCH {mismatch}")
    for name, text in replay.summary(said).items():
        screen.say(f"{name:<12}{text}")
    return FAILED if mismatches or failed else GOOD


async def _audit(command: str | None, own: Server | None) -> Done | None:
    if command:
        return await run_command(shlex.split(command), AUDIT_SECONDS_MAX)
    return None if own is None else await own.audit()
