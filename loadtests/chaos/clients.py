"""
The clients: what they do, each in its own way, until they are told to stop.

They send to either server, write down before and after, and send again until they know what became of it.
"""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from loadtests.chaos.rig import LEDGERS, POSTGRES, REDIS, Rig
from loadtests.client import Client as Caller
from loadtests.client import NoAnswer
from loadtests.history.recorder import FAIL, UNKNOWN, Heard, Recorder, outcome_of

TRANSFERS = "/v1/transfers"
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
# One answer: above the service's own deadlines, so that its word and not our impatience decides.
ANSWER_SECONDS_MAX = 10.0
# Until the outcome of a request is known: above the longest fault with what healing it takes.
INSIST_SECONDS_MAX = 60.0
# Seconds between two sendings, doubled up to the last.
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 0.5
# Seconds after which a client that hangs up does so, at most: before, while and after its request is executed.
PATIENCE_SECONDS_MAX = 0.02
# Of the requests of a client that hangs up, the share that it does not wait for.
HANG_UP_SHARE = 0.4
# Of all clients to one server in one ledger: each has its own, and a storm several.
CONNECTIONS_MAX = 1_000
# Bytes of the history; the check holds it in memory.
HISTORY_BYTES_MAX = 2 * 1024**3
LOST = Heard(0, "", False, UNKNOWN)


class Traffic:
    """
    What all clients share.

    Args:
        rig: What they send to.

        recorder: Takes what they sent and heard.

    Attributes:
        answered: When the last request that was well answered had been sent, by client.

        stopped: Clients end after what is under way.
    """

    def __init__(self, rig: Rig, recorder: Recorder, seed: int) -> None:
        self.rig = rig
        self.recorder = recorder
        self.answered: dict[str, float] = {}
        self.stopped = False
        self.dice = random.Random(seed)
        self.callers = {
            ledger: [Caller(url, rig.keys[ledger], CONNECTIONS_MAX) for url in rig.urls] for ledger in LEDGERS
        }

    async def close(self) -> None:
        """End all connections."""
        for callers in self.callers.values():
            for caller in callers:
                await caller.close()


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


class Client:
    """
    One client in one ledger: its own name, its own choices, one thing at a time.

    Args:
        name: Also the beginning of its keys; the same in both ledgers, as keys may be.
    """

    def __init__(self, traffic: Traffic, ledger: str, name: str, seed: int) -> None:
        self.process = f"{ledger}/{name}"
        self._traffic = traffic
        self._ledger = ledger
        self._rig = traffic.rig
        self._counts = traffic.rig.counts
        self._recorder = traffic.recorder
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
            await self._pay((WORLD, account), FUNDS)

    async def pay(self) -> None:
        """Move money between two accounts; some have none."""
        key, body, _ = await self._pay(self._pair(), self._amount())
        if self._dice.random() < AGAIN_SHARE:
            await self._insist(key, body, again=True)

    async def storm(self) -> None:
        """Send one payment several times at once, through both servers; then until it is known."""
        key, body = self._payment(self._pair(), self._amount())
        answers = await asyncio.gather(*(self._transfer(key, body, number % 2) for number in range(STORM)))
        if sum(answer.settled for answer in answers) > 1:
            self._counts["one request answered several times at once"] += 1
        await self._insist(key, body, again=True)

    async def hot(self) -> None:
        """Pay into or out of the account that everybody uses, which must not go below its floor."""
        pair = (HOT, self._dice.choice(ACCOUNTS))
        await self._pay(pair if self._dice.random() < 0.5 else pair[::-1], self._amount())

    async def poor(self) -> None:
        """Ask for more than there is, twice: the refusal stays."""
        key, body, answer = await self._pay(self._pair(), TOO_MUCH)
        if answer.status == 409:
            self._counts["refused for want of funds"] += 1
            await self._insist(key, body, again=True)

    async def confuse(self) -> None:
        """Use a key again by mistake for something else."""
        pair = self._pair()
        key, _, _ = await self._pay(pair, self._amount())
        if (await self._transfer(key, _body(key, pair, AMOUNT_MAX + self._amount()))).status == 422:
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
        away = self._rig.away[REDIS] > 0
        answer = await self._ask("read", f"/v1/accounts/{quote(self._dice.choice(READ), safe='')}")
        if away and self._rig.away[REDIS] and answer.status == 200:
            self._counts["account read while Redis was away"] += 1

    async def statement(self) -> None:
        """Read a statement or the list of accounts."""
        path = self._dice.choice((f"/v1/accounts/{HOT}/entries?limit=20", "/v1/accounts?limit=20"))
        await self._ask("list", path)

    def _payment(self, pair: tuple[str, str], amount: int) -> tuple[str, str]:
        """Return a new key and the payment that is sent with it."""
        key = f"{self._name}-{next(self._numbers)}"
        return key, _body(key, pair, amount)

    def _pair(self) -> tuple[str, str]:
        source, destination = self._dice.sample(ACCOUNTS, 2)
        return source, destination

    def _amount(self) -> int:
        return self._dice.randint(1, AMOUNT_MAX)

    async def _pay(self, pair: tuple[str, str], amount: int) -> tuple[str, str, Heard]:
        key, body = self._payment(pair, amount)
        return key, body, await self._insist(key, body)

    async def _bulk(self, *, atomic: bool) -> list[Heard]:
        # Some of an atomic set cannot be paid, so the others are not.
        unpayable = [self._dice.random() < UNPAYABLE_SHARE for _ in range(ITEMS)]
        items = [self._payment(self._pair(), TOO_MUCH if bad else self._amount()) for bad in unpayable]
        answers = await self._insist_bulk(items, atomic=atomic)
        if self._dice.random() < AGAIN_SHARE:
            await self._insist_bulk(items, atomic=atomic)
        return answers

    async def _insist(self, key: str, body: str, *, again: bool = False) -> Heard:
        """
        Send a transfer until it is known what became of it; ask for its key at times where an answer was lost.

        Args:
            again: It has been sent before.
        """
        deadline = time.monotonic() + INSIST_SECONDS_MAX
        away, dice = self._rig.away, self._traffic.dice
        pause, lost, answer = PAUSE_SECONDS, 0, LOST
        while time.monotonic() < deadline:
            redis, postgres = away[REDIS] > 0, away[POSTGRES] > 0
            answer = await self._transfer(key, body)
            if answer.settled:
                self._resolved(answer, 0 if again else lost, redis_away=redis and away[REDIS] > 0)
                return answer
            lost += answer.outcome == UNKNOWN
            if answer.status == 503 and answer.outcome == FAIL and postgres:
                self._counts["write refused while PostgreSQL was away"] += 1
            if answer.status == 503 and answer.outcome == UNKNOWN:
                self._counts["service did not know the outcome and said so"] += 1
            if lost and dice.random() < 0.5:
                await self._ask("look-up", f"/v1/idempotency-keys/{quote(key, safe='')}", key)
            await asyncio.sleep(pause * dice.uniform(0.5, 1.5))
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
        self._rig.violations.append(
            f"{self.process}: {key} has no known outcome after {INSIST_SECONDS_MAX:.0f} s: {answer}"
        )
        return answer

    async def _insist_bulk(self, items: list[tuple[str, str]], *, atomic: bool) -> list[Heard]:
        """Send a bulk, the items as bodies without keys, until it is known what became of each."""
        deadline = time.monotonic() + INSIST_SECONDS_MAX
        path, sender = f"{TRANSFERS}/bulk", {"process": self.process, "ledger": self._ledger}
        listed = [{"key": key, **json.loads(body)} for key, body in items]
        while True:
            numbers = self._recorder.invoke_bulk(items, path=path, atomic=atomic, **sender)
            answer = await self._send(path, body=json.dumps({"atomic": atomic, "transfers": listed}))
            answers = self._recorder.answered_bulk(numbers, answer.status, answer.response)
            if all(answer.settled for answer in answers):
                return answers
            if time.monotonic() > deadline:
                self._rig.violations.append(f"{self.process}: the bulk {items[0][0]} has no known outcome: {answers}")
                return answers
            await asyncio.sleep(PAUSE_SECONDS_MAX * self._traffic.dice.uniform(0.2, 1))

    def _resolved(self, answer: Heard, lost: int, *, redis_away: bool) -> None:
        """Count what a known outcome tells of the way there."""
        counts = self._counts
        if lost and answer.status == 201:
            counts["lost answer: had been applied" if answer.replayed else "lost answer: had not been applied"] += 1
        elif lost and answer.outcome == FAIL and answer.replayed:
            counts["lost answer: had been refused"] += 1
        if answer.replayed:
            counts["replayed while Redis was away" if redis_away else "replayed"] += 1

    async def _transfer(self, key: str, body: str, server: int | None = None) -> Heard:
        return await self._ask("transfer", TRANSFERS, key, body, server)

    async def _ask(self, operation: str, path: str, key: str = "", body: str = "", server: int | None = None) -> Heard:
        sender = {"process": self.process, "ledger": self._ledger}
        number = self._recorder.invoke(operation, path=path, key=key, request=body, **sender)
        # A look-up names its key in its path.
        answer = await self._send(path, key if body else "", body, server)
        return self._recorder.answered(number, answer.status, answer.response, replayed=answer.replayed)

    async def _send(self, path: str, key: str = "", body: str = "", server: int | None = None) -> Heard:
        traffic = self._traffic
        callers = traffic.callers[self._ledger]
        caller = callers[traffic.dice.randrange(len(callers)) if server is None else server]
        hangs_up = self._rig.hang_up and traffic.dice.random() < HANG_UP_SHARE
        seconds = traffic.dice.uniform(0, PATIENCE_SECONDS_MAX) if hangs_up else ANSWER_SECONDS_MAX
        sent = time.monotonic()
        method, data = ("POST", body.encode()) if body else ("GET", None)
        try:
            heard = await caller.ask(method, path, data, key, seconds)
        except NoAnswer as error:
            self._counts["answer lost"] += 1
            return LOST._replace(response=type(error.__cause__).__name__)
        text = heard.body.decode()
        if heard.status < 500 and heard.status != 429:
            # The service works.
            traffic.answered[self.process] = max(sent, traffic.answered.get(self.process, 0.0))
        return Heard(heard.status, text, heard.replayed, outcome_of(heard.status, text))


def _body(key: str, pair: tuple[str, str], amount: int) -> str:
    # The reference is how the books tell which key a transfer belongs to.
    fields = {"source": pair[0], "destination": pair[1], "amount": amount, "currency": CURRENCY, "reference": key}
    return json.dumps(fields)


def make_clients(traffic: Traffic, seed: int) -> list[Client]:
    """Return all clients."""
    clients = []
    for ledger, share in zip(LEDGERS, (1, 4), strict=True):
        for role, count in ROLES.items():
            clients += [Client(traffic, ledger, f"{role}-{n}", seed) for n in range(max(1, count // share))]
    return clients
