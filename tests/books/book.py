"""Makes random books with everything that can be exported, and compares exports."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import orjson

from server.ledger.expiry_requests import expiry
from server.ledger.transfers import Bound
from tests.support.client import Answer, Client, new_key
from tests.support.clock import BooksClock, moved_clock
from tests.support.command import call
from tests.support.postgres import administer
from tests.support.service import Service, in_process

LEDGER = "original"
# An account whose id is a prefix of another's, one that hledger might take for a date, and accounts in two currencies.
ACCOUNTS = {
    "world": "EUR",
    "customer": "EUR",
    "customer:1": "EUR",
    "customer:1:wallet": "EUR",
    "2026-01-01": "EUR",
    "a.b_c-d": "EUR",
    "world:points": "X1Y",
    "points": "X1Y",
    "idle": "123",
}
TEXTS = (
    None,
    "",
    "rent",
    'with "quotes", commas; semicolons | bars',
    "two\nlines\r\nand a tab\t",
    "date:2020-01-01 [2020-01-02] type:X",
    "Grüße, 東京, 🏦",
    " blank at both ends ",
    "(code) * ! = 5 EUR @ 3",
    "\u2028\x85\x1b",
    "'",
    "\\n",
)
METADATA: tuple[dict[str, str], ...] = ({}, {"a": "b"}, {"date": "2020-01-01, type:X"}, {"z": 'q"\n', "ä": "😀"})
STEPS = 60
KINDS = ("transfer", "hold", "capture", "void", "expiry", "reversal")


class Maker:
    """
    Makes a random book; each step is one that a caller or the service can take.

    Args:
        seed: Decides all random choices.
    """

    def __init__(self, service: Service, client: Client, clock: BooksClock, seed: int) -> None:
        self._service = service
        self._client = client
        self._clock = clock
        self._random = random.Random(seed)
        # Ids of holds, and of transfers that moved money.
        self._holds: list[str] = []
        self._moved: list[str] = []
        self.posted: Counter[str] = Counter()

    async def make(self, steps: int, *, limits: bool) -> None:
        """
        Open the accounts, take so many steps, and make sure that there is each kind of transfer.

        Args:
            limits: Whether accounts' limits change in between.
        """
        for account, currency in ACCOUNTS.items():
            floor = None if account.startswith("world") else -50
            await self._client.open(account, currency, floor=floor, metadata=self._metadata())
        for account in ACCOUNTS:
            if account not in ("world", "world:points", "idle"):
                await self._transfer(source="world:points" if account == "points" else "world", destination=account)
        for _ in range(steps):
            await self._step(limits)
        for kind in set(KINDS) - set(self.posted):
            await self._make_one(kind)
        if not limits:
            return
        # Limits that past balances violate, and an account that is closed.
        await self._client.send(
            "PATCH", "/v1/accounts/customer", {"floor": 1_000_000, "metadata": {"b": "2", "a": "1"}}
        )
        await self._client.send("PATCH", "/v1/accounts/a.b_c-d", {"closed": True})

    async def _step(self, limits: bool) -> None:
        step = self._random.choices(
            (self._transfer, self._hold, self._capture, self._void, self._reverse, self._expire, self._limit),
            (8, 5, 4, 2, 3, 2, int(limits)),
        )[0]
        await step()

    async def _make_one(self, kind: str) -> None:
        makers = {
            "transfer": self._transfer,
            "hold": self._hold,
            "capture": self._capture,
            "void": self._void,
            "expiry": self._expire,
            "reversal": self._reverse,
        }
        while not self.posted[kind]:
            if kind in ("capture", "void", "expiry"):
                await self._hold()
            await makers[kind]()

    async def _transfer(self, **fields: object) -> None:
        answer = await self._post(**fields)
        if answer.status == 201:
            self._moved.append(answer.json["id"])

    async def _hold(self) -> None:
        answer = await self._post(hold=True, expires_in=self._random.choice((30, 3600, 604_800)))
        if answer.status == 201:
            self._holds.append(answer.json["id"])

    async def _post(self, **fields: object) -> Answer:
        currency = self._random.choice(("EUR", "EUR", "EUR", "X1Y"))
        source, destination = self._random.sample([a for a, c in ACCOUNTS.items() if c == currency], 2)
        # Some are refused; an export does not contain them.
        body: dict[str, Any] = {
            "source": source,
            "destination": destination,
            "amount": self._random.choice((1, 7, 40, 10_000)),
            "reference": self._random.choice((None, "invoice 1", '"', "a,b")),
            "description": self._random.choice(TEXTS),
            "metadata": self._metadata(),
            **fields,
        }
        body["currency"] = ACCOUNTS[body["source"]]
        if self._random.random() < 0.3:
            at = await self._clock.now() - self._random.randrange(400) * timedelta(days=1)
            body["effective_at"] = at.astimezone(UTC).isoformat()
        return await self._send("/v1/transfers", body)

    async def _capture(self) -> None:
        if self._holds:
            amount, rest = self._random.choice(((None, True), (1, False), (1, True), (3, False)))
            hold = self._random.choice(self._holds)
            answer = await self._send(f"/v1/transfers/{hold}/capture", {"amount": amount, "release_rest": rest})
            if answer.status == 201:
                self._moved.append(answer.json["id"])

    async def _void(self) -> None:
        if self._holds:
            await self._send(f"/v1/transfers/{self._random.choice(self._holds)}/void", {})

    async def _reverse(self) -> None:
        if self._moved:
            amount = self._random.choice((None, 1, 5))
            await self._send(f"/v1/transfers/{self._random.choice(self._moved)}/reverse", {"amount": amount})

    async def _expire(self) -> None:
        """Advance the clock, and sometimes post the holds that expired, as the service does sooner or later."""
        await self._clock.advance(self._random.choice((31, 3601)))
        if self._random.random() < 0.3:
            return
        assert self._service.app is not None
        due = await administer(
            self._service.database_url,
            "SELECT ledger_id, id FROM tallystick.transfer_progress "
            "WHERE remaining > 0 AND expires_at <= tallystick.ledger_clock()",
        )
        for row in due:
            outcome = await self._service.app.posting.post(row["ledger_id"], expiry(row["id"]))
            assert isinstance(outcome, Bound)
            self.posted["expiry"] += 1

    async def _limit(self) -> None:
        account = self._random.choice(["customer:1", "points"])
        body = {"floor": self._random.choice((None, 0, -50)), "metadata": self._metadata()}
        assert (await self._client.send("PATCH", f"/v1/accounts/{account}", body)).status == 200

    async def _send(self, path: str, body: dict[str, Any]) -> Answer:
        answer = await self._client.send("POST", path, body, headers={"Idempotency-Key": new_key()})
        assert answer.status in (201, 404, 409), answer
        if answer.status == 201:
            self.posted[answer.json["kind"]] += 1
        return answer

    def _metadata(self) -> dict[str, str]:
        return self._random.choice(METADATA)


@asynccontextmanager
async def made_book(database_url: str, seed: int, *, limits: bool = True) -> AsyncIterator[Counter[str]]:
    """Make a book in LEDGER and yield its numbers of transfers by kind; the database's clock stays advanced."""
    async with in_process(database_url) as service, moved_clock(database_url, None) as clock:
        maker = Maker(service, await service.client(LEDGER), clock, seed)
        await maker.make(STEPS, limits=limits)
        yield maker.posted


async def export(database_url: str, ledger: str, layout: str, folder: Path, *words: str) -> bytes:
    """Return the output of `tallystick export`."""
    file = folder / f"{ledger}.{layout}"
    end = await call(
        *("export", "--ledger", ledger, "--format", layout, "--output", str(file), *words), database_url=database_url
    )
    assert (end.code, end.out, end.err) == (0, "", ""), end
    return file.read_bytes()


def same(jsonl: bytes) -> list[dict[str, Any]]:
    """Return the records of an export without transfer ids and posting instants, which differ between ledgers."""
    records = [orjson.loads(line) for line in jsonl.splitlines()]
    for record in records:
        record.pop("created_at")
        if record["record"] == "transfer":
            record.pop("id")
    return records
