"""
What clients of the ledger do: they pay, read, record what they send and hear, and retry until they know the outcome.

Subclasses add how requests are sent and how a payer pauses: with asyncio in chaos, with gevent in locust.
"""

import itertools
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from loadtests.history.recorder import LOOK_UP, OK, PROGRESS, UNKNOWN, Heard, Recorder

TRANSFERS = "/v1/transfers"
BULK = f"{TRANSFERS}/bulk"
CURRENCY = "EUR"
# Exponent of Zipf's law: a few accounts get most of the reads.
ZIPF = 1.1
# More than any account can pay.
TOO_MUCH = 10**15
# Seconds of retries until the outcome of a request is known: above the longest fault and its healing.
INSIST_SECONDS_MAX = 60.0
# Seconds between two attempts, doubled each time; a longer Retry-After counts instead.
PAUSE_SECONDS = 0.05
# Share of lost answers after which a payer looks up its key before it retries.
LOOK_UP_SHARE = 0.5
# Seconds of a hold that does not expire while its client works on it.
LONG_HOLD_SECONDS = 86_400
# The longest pause in seconds between two looks at a hold that will expire.
GLANCE_SECONDS = 1.0
# Share of accepted holds that are voided.
VOID_SHARE = 0.25


class Request(NamedTuple):
    """
    A POST, or a GET if there is no body.

    A status in `expected` is no failure. Requests with different `turn`s go to different servers if there are several.
    If it is `deaf`, its connection is closed before the answer.
    """

    path: str
    body: str = ""
    key: str = ""
    expected: tuple[int, ...] = ()
    turn: int | None = None
    deaf: bool = False


class Habits(NamedTuple):
    """
    How payers behave.

    One payment in `lose_one_in` loses its answer on purpose, one in `again_one_in` is looked up and sent again after
    its outcome is known, and one transfer in `unpayable_one_in` of those in bulks cannot be paid; 0 means never. A bulk
    has `items`, a storm sends `at_once` requests. No pause is longer than `pause_max` seconds, except for a hold to
    expire, which takes up to `hold_max`.
    """

    amount_max: int
    items: int
    at_once: int
    pause_max: float
    again_one_in: int
    lose_one_in: int = 0
    unpayable_one_in: int = 0
    hold_max: int = 2


class Payer(ABC):
    """
    Is one client in one ledger, with its own random choices and one act at a time. Its first account is the hot one.
    """

    def __init__(
        self,
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
        self.dice = random.Random(seed)
        self._recorder = recorder
        self._ledger = ledger
        self._keys = (f"{prefix}{number}" for number in itertools.count(1))
        self._accounts = accounts
        self._habits = habits
        self._weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, len(accounts) + 1)))

    @abstractmethod
    async def send(self, request: Request) -> Heard:
        """Send a request and return its answer; without one, the response says why."""

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Wait so many seconds."""

    @abstractmethod
    async def together(self, sendings: Sequence[Coroutine[Any, Any, Heard]]) -> list[Heard]:
        """Run all sendings at once and return their results."""

    def busy_account(self) -> str:
        """Return a random account, the first ones most often."""
        [account] = self.dice.choices(self._accounts, cum_weights=self._weights)
        return account

    def pair(self) -> tuple[str, str]:
        """Return two different accounts, neither of them the hot one."""
        source, destination = self.dice.sample(range(1, len(self._accounts)), 2)
        return self._accounts[source], self._accounts[destination]

    def hot_pair(self) -> tuple[str, str]:
        """Return the hot account and another one, in either order."""
        pair = self._accounts[0], self._accounts[self.dice.randrange(1, len(self._accounts))]
        return pair if self.dice.random() < 0.5 else pair[::-1]

    def payment(self, pair: tuple[str, str], amount: int | None = None) -> tuple[str, str]:
        """Return a new key and the payment to send with it, by default of a small amount."""
        key = next(self._keys)
        return key, body_of(key, pair, self._amount() if amount is None else amount)

    def _amount(self) -> int:
        return self.dice.randint(1, self._habits.amount_max)

    def _one_in(self, number: int) -> bool:
        return number > 0 and self.dice.randrange(number) == 0

    async def read(self, account: str = "") -> None:
        """Read an account, by default a busy one."""
        await self._ask("read", Request(f"/v1/accounts/{quote(account or self.busy_account(), safe='')}"))

    async def statement(self) -> None:
        """Read a statement or the list of accounts."""
        path = self.dice.choice((f"/v1/accounts/{quote(self._accounts[0], safe='')}/entries", "/v1/accounts"))
        await self._ask("list", Request(f"{path}?limit=20"))

    async def pay(self) -> None:
        await self._settle(*self.payment(self.pair()))

    async def _settle(self, key: str, body: str, *, path: str = TRANSFERS, **how: Any) -> Heard:
        """
        Retry a request until its outcome is known; at times lose its first answer, at times send it again afterwards.
        """
        if self._one_in(self._habits.lose_one_in):
            await self.transfer(key, body, path=path, deaf=True)
        heard = await self.insist(key, body, path=path, **how)
        if heard.settled and self._one_in(self._habits.again_one_in):
            await self._look_up(key)
            await self.insist(key, body, path=path, **how)
        return heard

    async def checkout(self) -> None:
        """Hold a payment, and void it, or capture it in parts and reverse parts of that."""
        hold = await self._hold(LONG_HOLD_SECONDS)
        if hold is None:
            return
        if self.dice.random() < VOID_SHARE:
            await self._follow(hold["id"], "void")
        else:
            part = self.dice.randint(1, hold["amount"])
            asked = {"amount": part, "release_rest": part == hold["amount"]}
            captures = [await self._follow(hold["id"], "capture", asked)]
            if part < hold["amount"]:
                captures.append(await self._follow(hold["id"], "capture"))
            for capture in captures:
                await self._refund(capture)
        await self._look_at(hold)

    async def _refund(self, capture: Heard) -> None:
        """Reverse a capture in parts, if it was made; the receiver may have spent the money."""
        if capture.outcome == OK:
            said = json.loads(capture.response)
            part = self.dice.randint(1, said["amount"])
            await self._follow(said["id"], "reverse", {"amount": part})
            if part < said["amount"]:
                await self._follow(said["id"], "reverse")
            await self._ask(PROGRESS, Request(f"{TRANSFERS}/{said['id']}"))

    async def let_expire(self) -> None:
        """Hold a payment for seconds, read it, and capture parts now and then until it has expired or is used up."""
        seconds = self.dice.randint(1, self._habits.hold_max)
        hold = await self._hold(seconds)
        left = hold["amount"] if hold else 0
        while hold and left:
            # Short, because a program that waits for all clients to be answered also waits for this one.
            await self.pause(self.dice.uniform(0, GLANCE_SECONDS))
            if self._one_in(seconds):
                heard = await self._follow(hold["id"], "capture", {"amount": 1, "release_rest": False}, expected=(409,))
                left = left - 1 if heard.outcome == OK else 0
            await self._look_at(hold)

    async def overcapture(self) -> None:
        """Capture more than half of a hold several times at once, and reverse that as often: one of each succeeds."""
        hold = await self._hold(LONG_HOLD_SECONDS)
        if hold is None:
            return
        part = {"amount": hold["amount"] // 2 + 1}
        capture = partial(self._follow, hold["id"], "capture", {**part, "release_rest": False}, expected=(409,))
        for heard in await self._at_once(capture):
            if heard.outcome == OK:
                capture_id = json.loads(heard.response)["id"]
                await self._at_once(partial(self._follow, capture_id, "reverse", part, expected=(409,)))
        await self._look_at(hold)

    async def _hold(self, seconds: int) -> dict[str, Any] | None:
        """Hold a small amount for so long, and return the hold; None if it is refused."""
        key = next(self._keys)
        heard = await self._settle(key, body_of(key, self.pair(), self._amount(), hold=True, expires_in=seconds))
        return json.loads(heard.response) if heard.outcome == OK else None

    async def _follow(self, parent: str, action: str, asked: Mapping[str, object] = {}, **how: Any) -> Heard:
        """Capture, void or reverse a transfer; *how* are fields of `Request`."""
        path, body = f"{TRANSFERS}/{parent}/{action}", json.dumps(asked, separators=(",", ":"))
        return await self._settle(next(self._keys), body, path=path, **how)

    async def _at_once(self, send: Callable[..., Coroutine[Any, Any, Heard]]) -> list[Heard]:
        """Send several times at once, each as a different process and with a different turn."""
        turns = range(self._habits.at_once)
        return await self.together([send(process=f"{self.process}.{turn}", turn=turn) for turn in turns])

    async def _look_at(self, hold: dict[str, Any]) -> None:
        await self._ask(PROGRESS, Request(f"{TRANSFERS}/{hold['id']}"))
        await self.read(hold["source"])

    async def pay_hot(self) -> None:
        """Pay into or out of the account that all payers use."""
        await self.insist(*self.payment(self.hot_pair()))

    async def pay_and_read(self) -> None:
        """Pay between a busy account and another, then read both."""
        busy = self.busy_account()
        pair = busy, next(account for account in self.pair() if account != busy)
        await self.insist(*self.payment(pair))
        for account in pair:
            await self.read(account)

    async def overdraw(self) -> None:
        """Ask for more than there is, repeatedly: the refusal stays. Then check that nothing has moved."""
        pair = self.pair()
        key, body = self.payment(pair, TOO_MUCH)
        if self._habits.lose_one_in and self._one_in(2):
            await self.transfer(key, body, deaf=True)
        for _ in range(2):
            await self.insist(key, body, expected=(409,))
        await self.read(pair[0])

    async def storm(self) -> None:
        """Send one payment several times at once; if no answer is final, retry until the outcome is known."""
        key, body = self.payment(self.pair())
        if not any(heard.settled for heard in await self._at_once(partial(self.transfer, key, body))):
            await self.insist(key, body)

    async def confuse(self) -> None:
        """Reuse a key by mistake for a different payment: the second is refused and the first stays."""
        pair, amount = self.pair(), self._amount()
        key, body = self.payment(pair, amount)
        if (await self.insist(key, body)).settled:
            await self.transfer(key, body_of(key, pair, amount + 1), expected=(422,))

    async def bulk(self) -> None:
        """Send several transfers in one bulk, independent or all-or-nothing."""
        atomic = self._one_in(2)
        unpayable = [self._one_in(self._habits.unpayable_one_in) for _ in range(self._habits.items)]
        items = [self.payment(self.pair(), TOO_MUCH if bad else None) for bad in unpayable]
        for _ in range(1 + self._one_in(self._habits.again_one_in)):
            answers = await self.insist_bulk(items, atomic=atomic)
            wrong = {heard.status for heard in answers if heard.settled} - {201}
            if wrong and not any(unpayable):
                raise AssertionError(f"items of a bulk were answered {sorted(wrong)}")

    async def transfer(self, key: str, body: str, *, path: str = TRANSFERS, process: str = "", **how: Any) -> Heard:
        """Send a payment once; *how* are fields of `Request`."""
        return await self._ask("transfer", Request(path, body, key, **how), key, process)

    async def insist(self, key: str, body: str, **how: Any) -> Heard:
        """Send the same payment until its key has a final answer; look up its key at times."""

        async def send_once() -> list[Heard]:
            return [await self.transfer(key, body, **how)]

        [heard] = await self._insist(send_once, key, look_up_share=LOOK_UP_SHARE)
        return heard

    async def insist_bulk(self, items: Sequence[tuple[str, str]], *, atomic: bool) -> list[Heard]:
        """Send a bulk of keys and bodies until the outcome of each item is known."""
        listed = [{"key": key, **json.loads(body)} for key, body in items]
        sent = Request(BULK, json.dumps({"atomic": atomic, "transfers": listed}, separators=(",", ":")))

        async def send_once() -> list[Heard]:
            numbers = self._recorder.invoke_bulk(items, self.process, BULK, atomic=atomic, ledger=self._ledger)
            return self._recorder.answered_bulk(numbers, await self.send(sent))

        return await self._insist(send_once, items[0][0])

    async def _insist(
        self, send_once: Callable[[], Awaitable[list[Heard]]], key: str, *, look_up_share: float = 0.0
    ) -> list[Heard]:
        deadline, pause, lost = time.monotonic() + INSIST_SECONDS_MAX, PAUSE_SECONDS, False
        while True:
            answers = await send_once()
            if all(heard.settled for heard in answers):
                return answers
            lost = lost or answers[0].outcome == UNKNOWN
            if time.monotonic() > deadline:
                self.gave_up(key, answers[0])
                return answers
            if lost and self.dice.random() < look_up_share:
                await self._look_up(key, expected=(404,))
            wait = min(self._habits.pause_max, max(pause, *(heard.retry_after for heard in answers)))
            await self.pause(wait * self.dice.uniform(0.5, 1.5))
            pause = min(2 * pause, self._habits.pause_max)

    def gave_up(self, key: str, heard: Heard) -> None:  # noqa: B027 -- nothing is to be done
        """Accept that a request has no known outcome; the checks see it in the history."""

    async def _look_up(self, key: str, *, expected: tuple[int, ...] = ()) -> None:
        # A look-up names its key in its path.
        await self._ask(LOOK_UP, Request(f"/v1/idempotency-keys/{quote(key, safe='')}", expected=expected), key)

    async def _ask(self, operation: str, request: Request, key: str = "", process: str = "") -> Heard:
        number = self._recorder.invoke(
            *(operation, process or self.process, request.path), ledger=self._ledger, key=key, request=request.body
        )
        return self._recorder.answered(number, await self.send(request))


def body_of(key: str, pair: tuple[str, str], amount: int, **more: object) -> str:
    """Return a payment; its reference is its key, so that statements show which key moved the money."""
    fields = {"source": pair[0], "destination": pair[1], "amount": amount, "currency": CURRENCY, "reference": key}
    return json.dumps({**fields, **more}, separators=(",", ":"))


# One act of a payer, which it repeats.
Act = Callable[[Payer], Coroutine[Any, Any, None]]
