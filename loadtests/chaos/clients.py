"""What the clients do, each in its own way, until they are told to stop."""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable

from loadtests.chaos.rig import LEDGERS, Rig
from loadtests.chaos.sending import Sender, Traffic
from loadtests.client import Client as Caller
from loadtests.history.recorder import Heard

CURRENCY = "EUR"
PREFIX = "chaos:"
WORLD, HOT = f"{PREFIX}world", f"{PREFIX}hot"
# Few, so that many meet at the same ones.
ACCOUNTS = tuple(f"{PREFIX}{number}" for number in range(24))
# Those that are read, few as well, so that what is read is out of Redis at times and changed at others.
READ = (HOT, *ACCOUNTS[:7])
# What each has at first: little enough that some run dry.
FUNDS = 400
AMOUNT_MAX = 5
# More than there is.
TOO_MUCH = 1_000_000_000
# Seconds that a client thinks, on average: all together ask about 300 times a second, which leaves room on two cores.
THINK_SECONDS = 0.3
READER_THINK_SECONDS = 0.1
# Transfers in a bulk.
ITEMS = 5
# Of the payments, those that are sent again though their outcome is known; of a set's, those that cannot be paid.
AGAIN_SHARE, UNPAYABLE_SHARE = 0.2, 0.05
# The same request at once in a storm, half of them to each server.
STORM = 4
# Each kind of client, and how many there are of it in the main ledger; in the other one there is a quarter of that.
ROLES = {"pay": 8, "storm": 3, "hot": 4, "bulk": 2, "atomic": 2, "poor": 2, "confuse": 2, "read": 12, "statement": 2}


async def open_accounts(rig: Rig) -> None:
    """
    Open the accounts of both ledgers; nothing of it is recorded but by the books.

    Raises:
        ClientError: It is not answered.
    """
    for ledger in LEDGERS:
        async with Caller(rig.servers[0].url, rig.keys[ledger]) as caller:
            await caller.open_accounts([WORLD], CURRENCY)
            await caller.open_accounts([HOT, *ACCOUNTS], CURRENCY, floor=0)


class Client(Sender):
    """
    One client: its own name, its own choices, one thing at a time.

    Args:
        name: Also the beginning of its keys; the same in both ledgers, as keys may be.
    """

    def __init__(self, traffic: Traffic, ledger: str, name: str, seed: str) -> None:
        super().__init__(traffic, ledger, f"{ledger}/{name}")
        self._name = name
        self._dice = random.Random(f"{seed} {self.process}")
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Do what its name says, over and over, until all are told to stop."""
        role = self._name.partition("-")[0]
        act: Callable[[], Awaitable[None]] = getattr(self, role)
        think = READER_THINK_SECONDS if role == "read" else THINK_SECONDS
        while not self._traffic.stopped:
            await act()
            await asyncio.sleep(self._dice.uniform(0, 2 * think))

    async def fund(self) -> None:
        """Give all accounts their first money."""
        for account in (HOT, *ACCOUNTS):
            await self._pay(WORLD, account, FUNDS)

    async def pay(self) -> None:
        """Move money between two accounts; some have none."""
        key, body, _ = await self._pay(*self._pair(), self._amount())
        if self._dice.random() < AGAIN_SHARE:
            await self.insist(key, body, again=True)

    async def storm(self) -> None:
        """Send one payment several times at once, through both servers; then until it is known."""
        key = self._key()
        body = _body(key, *self._pair(), self._amount())
        answers = await asyncio.gather(*(self.transfer(key, body, number % 2) for number in range(STORM)))
        if sum(answer.settled for answer in answers) > 1:
            self._counts["one request answered several times at once"] += 1
        await self.insist(key, body, again=True)

    async def hot(self) -> None:
        """Pay into or out of the account that everybody uses, which must not go below its floor."""
        pair = (HOT, self._dice.choice(ACCOUNTS))
        source, destination = pair if self._dice.random() < 0.5 else pair[::-1]
        await self._pay(source, destination, self._amount())

    async def poor(self) -> None:
        """Ask for more than there is, twice: the refusal stays."""
        key, body, answer = await self._pay(*self._pair(), TOO_MUCH)
        if answer.status == 409:
            self._counts["refused for want of funds"] += 1
            await self.insist(key, body, again=True)

    async def confuse(self) -> None:
        """Use a key again by mistake for something else."""
        pair = self._pair()
        key, _, _ = await self._pay(*pair, self._amount())
        other = _body(key, *pair, AMOUNT_MAX + self._amount())
        if (await self.transfer(key, other)).status == 422:
            self._counts["key refused for another request"] += 1

    async def bulk(self) -> None:
        """Send several transfers at once, each for itself."""
        await self._bulk(atomic=False)

    async def atomic(self) -> None:
        """Send several transfers at once, all or none."""
        answers = await self._bulk(atomic=True)
        name = "atomic set posted" if all(answer.status == 201 for answer in answers) else "atomic set refused"
        self._counts[name] += 1

    async def read(self) -> None:
        """Read an account through either server."""
        await self.read_account(self._dice.choice(READ))

    async def statement(self) -> None:
        """Read a statement or the list of accounts."""
        path = self._dice.choice((f"/v1/accounts/{HOT}/entries?limit=20", "/v1/accounts?limit=20"))
        await self.list_some(path)

    async def _pay(self, source: str, destination: str, amount: int) -> tuple[str, str, Heard]:
        key = self._key()
        body = _body(key, source, destination, amount)
        return key, body, await self.insist(key, body)

    async def _bulk(self, *, atomic: bool) -> list[Heard]:
        items = []
        for _ in range(ITEMS):
            key = self._key()
            # Some of an atomic set cannot be paid, so the others are not.
            amount = TOO_MUCH if self._dice.random() < UNPAYABLE_SHARE else self._amount()
            items.append((key, _body(key, *self._pair(), amount)))
        answers = await self.insist_bulk(items, atomic=atomic)
        if self._dice.random() < AGAIN_SHARE:
            await self.insist_bulk(items, atomic=atomic)
        return answers

    def _key(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _pair(self) -> tuple[str, str]:
        source, destination = self._dice.sample(ACCOUNTS, 2)
        return source, destination

    def _amount(self) -> int:
        return self._dice.randint(1, AMOUNT_MAX)


def _body(key: str, source: str, destination: str, amount: int) -> str:
    # The reference is how the books tell which key a transfer belongs to.
    fields = {"source": source, "destination": destination, "amount": amount, "currency": CURRENCY, "reference": key}
    return json.dumps(fields)


def make_clients(traffic: Traffic, seed: int) -> list[Client]:
    """Return all clients."""
    clients = []
    for ledger, share in zip(LEDGERS, (1, 4), strict=True):
        for role, count in ROLES.items():
            clients += [Client(traffic, ledger, f"{role}-{n}", str(seed)) for n in range(max(1, count // share))]
    return clients
