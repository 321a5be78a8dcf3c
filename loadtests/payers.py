"""
What clients of the ledger do: they pay, read, write down what they sent and heard, and send again until they know.

Nothing here waits by itself. A `Wire` carries requests and pauses, under asyncio during chaos and under gevent in
locust.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from loadtests.history.recorder import UNKNOWN, Heard, Recorder

TRANSFERS = "/v1/transfers"
BULK = f"{TRANSFERS}/bulk"
CURRENCY = "EUR"
# Exponent of Zipf's law: a few accounts get most of the reads.
ZIPF = 1.1
# What no account can pay.
TOO_MUCH = 10**15
# Until the outcome of a request is known: above the longest fault with what healing it takes.
INSIST_SECONDS_MAX = 60.0
# Seconds between two sendings, doubled from one to the next; what an answer asks for counts too.
PAUSE_SECONDS = 0.05
# One whose answer was lost asks what its key is bound to before it sends again, at times.
LOOK_UP_SHARE = 0.5


class Request(NamedTuple):
    """
    A POST, or a GET where there is no body.

    A status among those `expected` is no failure. Requests of different turns take different ways, where there are
    several.
    """

    path: str
    body: str = ""
    key: str = ""
    expected: tuple[int, ...] = ()
    turn: int | None = None


class Wire(Protocol):
    """Carries the requests of one payer."""

    async def send(self, request: Request) -> Heard:
        """Send a request; without an answer, the response says why."""

    async def send_deaf(self, request: Request) -> None:
        """Send a request and close the connection without an answer."""

    async def pause(self, seconds: float) -> None:
        """Return after some time."""

    async def together(self, sendings: Sequence[Coroutine[Any, Any, Heard]]) -> list[Heard]:
        """Return what all of them come to, at once."""


class Habits(NamedTuple):
    """
    How payers go about it.

    One payment in `lose_one_in` has its answer lost on purpose, one in `again_one_in` is sent again though its outcome
    is known, and one transfer in `unpayable_one_in` of those in bulks cannot be paid; 0 is never. A bulk has `items`, a
    storm has `at_once` sendings. No pause is longer than `pause_max`, in seconds.
    """

    amount_max: int
    items: int
    at_once: int
    pause_max: float
    again_one_in: int
    lose_one_in: int = 0
    unpayable_one_in: int = 0


class Payer:
    """
    One client in one ledger: its own name, its own choices, one thing at a time.

    Args:
        process: Its name in the history.

        prefix: Begins its keys.

        accounts: That it moves money between; the first is the hot one, which `pay` leaves alone.
    """

    def __init__(
        self,
        wire: Wire,
        recorder: Recorder,
        process: str,
        *,
        prefix: str,
        accounts: Sequence[str],
        habits: Habits,
        ledger: str = "",
        seed: str = "",
    ) -> None:
        self.process = process
        self.wire = wire
        self.dice = random.Random(seed)
        self._recorder = recorder
        self._ledger = ledger
        self._keys = (f"{prefix}{number}" for number in itertools.count(1))
        self._accounts = accounts
        self._habits = habits
        self._weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, len(accounts) + 1)))

    def busy_account(self) -> str:
        """Return an account, the first ones most often."""
        [account] = self.dice.choices(self._accounts, cum_weights=self._weights)
        return account

    def pair(self) -> tuple[str, str]:
        """Return two different accounts, neither of them the hot one."""
        source, destination = self.dice.sample(range(1, len(self._accounts)), 2)
        return self._accounts[source], self._accounts[destination]

    def hot_pair(self) -> tuple[str, str]:
        """Return the hot account and another one, either way round."""
        pair = self._accounts[0], self._accounts[self.dice.randrange(1, len(self._accounts))]
        return pair if self.dice.random() < 0.5 else pair[::-1]

    def payment(self, pair: tuple[str, str], amount: int | None = None) -> tuple[str, str]:
        """Return a new key and the payment that is sent with it, by default of a small amount."""
        key = next(self._keys)
        return key, body_of(key, pair, self._amount() if amount is None else amount)

    def _amount(self) -> int:
        return self.dice.randint(1, self._habits.amount_max)

    def _one_in(self, number: int) -> bool:
        return number > 0 and self.dice.randrange(number) == 0

    async def read(self, account: str = "") -> None:
        """Read an account, by default a busy one."""
        await self._ask("read", f"/v1/accounts/{quote(account or self.busy_account(), safe='')}")

    async def statement(self) -> None:
        """Read a statement or the list of accounts."""
        path = self.dice.choice((f"/v1/accounts/{quote(self._accounts[0], safe='')}/entries", "/v1/accounts"))
        await self._ask("list", f"{path}?limit=20")

    async def pay(self) -> None:
        """Move money between two accounts."""
        key, body = self.payment(self.pair())
        if self._one_in(self._habits.lose_one_in):
            await self._send_deaf(key, body)
        await self.insist(key, body)
        if self._one_in(self._habits.again_one_in):
            await self.insist(key, body)

    async def pay_hot(self) -> None:
        """Pay into or out of the account that everybody uses."""
        await self.insist(*self.payment(self.hot_pair()))

    async def pay_and_read(self) -> None:
        """Pay between a busy account and another, then look at both."""
        busy = self.busy_account()
        pair = busy, next(account for account in self.pair() if account != busy)
        await self.insist(*self.payment(pair))
        for account in pair:
            await self.read(account)

    async def overdraw(self) -> None:
        """Ask for more than there is, and insist on it: the refusal stays. Then look that nothing has moved."""
        pair = self.pair()
        key, body = self.payment(pair, TOO_MUCH)
        if self._habits.lose_one_in and self._one_in(2):
            await self._send_deaf(key, body)
        for _ in range(2):
            await self.insist(key, body, expected=(409,))
        await self.read(pair[0])

    async def storm(self) -> None:
        """Send one payment several times at once; again until it is known where nobody was answered."""
        key, body = self.payment(self.pair())
        names = (f"{self.process}.{number}" for number in range(self._habits.at_once))
        sendings = [self.transfer(key, body, process=name, turn=turn) for turn, name in enumerate(names)]
        if not any(heard.settled for heard in await self.wire.together(sendings)):
            await self.insist(key, body)

    async def confuse(self) -> None:
        """Use a key again by mistake for another payment: that is refused and the first one stays."""
        pair, amount = self.pair(), self._amount()
        key, body = self.payment(pair, amount)
        if (await self.insist(key, body)).settled:
            await self.transfer(key, body_of(key, pair, amount + 1), expected=(422,))

    async def bulk(self) -> None:
        """Send several transfers at once, each for itself."""
        await self._bulk(atomic=False)

    async def atomic(self) -> None:
        """Send several transfers at once, all or none."""
        await self._bulk(atomic=True)

    async def _bulk(self, *, atomic: bool) -> None:
        unpayable = [self._one_in(self._habits.unpayable_one_in) for _ in range(self._habits.items)]
        items = [self.payment(self.pair(), TOO_MUCH if bad else None) for bad in unpayable]
        for _ in range(1 + self._one_in(self._habits.again_one_in)):
            answers = await self.insist_bulk(items, atomic=atomic)
            wrong = {heard.status for heard in answers if heard.settled} - {201}
            if wrong and not any(unpayable):
                raise AssertionError(f"items of a bulk were answered {sorted(wrong)}")

    async def transfer(
        self, key: str, body: str, *, process: str = "", expected: tuple[int, ...] = (), turn: int | None = None
    ) -> Heard:
        """Send a payment once."""
        return await self._ask("transfer", TRANSFERS, key, body, process=process, expected=expected, turn=turn)

    async def insist(self, key: str, body: str, *, expected: tuple[int, ...] = ()) -> Heard:
        """Send the same payment until it has the answer that its key has for ever; ask for its key at times."""
        deadline, attempt, lost = time.monotonic() + INSIST_SECONDS_MAX, 0, False
        while True:
            heard = await self.transfer(key, body, expected=expected)
            if heard.settled:
                return heard
            lost = lost or heard.outcome == UNKNOWN
            if time.monotonic() > deadline:
                self.gave_up(key, heard)
                return heard
            if lost and self.dice.random() < LOOK_UP_SHARE:
                await self._ask("look-up", f"/v1/idempotency-keys/{quote(key, safe='')}", key, expected=(404,))
            await self._pause(attempt, heard.retry_after)
            attempt += 1

    async def insist_bulk(self, items: Sequence[tuple[str, str]], *, atomic: bool) -> list[Heard]:
        """Send a bulk, given as keys and bodies, until it is known what became of each item."""
        deadline, attempt = time.monotonic() + INSIST_SECONDS_MAX, 0
        listed = [{"key": key, **json.loads(body)} for key, body in items]
        sent = json.dumps({"atomic": atomic, "transfers": listed}, separators=(",", ":"))
        while True:
            numbers = self._recorder.invoke_bulk(
                items, process=self.process, path=BULK, atomic=atomic, ledger=self._ledger
            )
            heard = await self.wire.send(Request(BULK, sent))
            answers = self._recorder.answered_bulk(numbers, heard.status, heard.response)
            if all(each.settled for each in answers):
                return answers
            if time.monotonic() > deadline:
                self.gave_up(items[0][0], answers[0])
                return answers
            await self._pause(attempt, heard.retry_after)
            attempt += 1

    def gave_up(self, key: str, heard: Heard) -> None:
        """Take that a request has no known outcome; whoever judges the history sees it there."""

    async def _pause(self, attempt: int, retry_after: int) -> None:
        longest = self._habits.pause_max
        seconds = min(longest, max(PAUSE_SECONDS * 2.0 ** min(attempt, 10), retry_after))
        await self.wire.pause(seconds * self.dice.uniform(0.5, 1.5))

    async def _send_deaf(self, key: str, body: str) -> None:
        number = self._recorder.invoke(
            "transfer", process=self.process, path=TRANSFERS, ledger=self._ledger, key=key, request=body
        )
        await self.wire.send_deaf(Request(TRANSFERS, body, key))
        self._recorder.lost(number, "not listened for")

    async def _ask(
        self,
        operation: str,
        path: str,
        key: str = "",
        body: str = "",
        *,
        process: str = "",
        expected: tuple[int, ...] = (),
        turn: int | None = None,
    ) -> Heard:
        number = self._recorder.invoke(
            operation, process=process or self.process, path=path, ledger=self._ledger, key=key, request=body
        )
        # A look-up names its key in its path.
        heard = await self.wire.send(Request(path, body, key if body else "", expected, turn))
        self._recorder.answered(number, heard.status, heard.response, replayed=heard.replayed)
        return heard


def body_of(key: str, pair: tuple[str, str], amount: int) -> str:
    """Return a payment; its reference is its key, so that statements show which key moved the money."""
    fields = {"source": pair[0], "destination": pair[1], "amount": amount, "currency": CURRENCY, "reference": key}
    return json.dumps(fields, separators=(",", ":"))


# What a payer does, over and over.
Act = Callable[[Payer], Coroutine[Any, Any, None]]
