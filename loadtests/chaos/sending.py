"""How the clients send: to either server, written down before and after, again until they know what became of it."""

import asyncio
import json
import random
import time
from urllib.parse import quote

from loadtests.chaos.plan import POSTGRES, REDIS
from loadtests.chaos.rig import LEDGERS, Rig
from loadtests.client import Client, NoAnswer
from loadtests.history.recorder import FAIL, UNKNOWN, Heard, Recorder, outcome_of

TRANSFERS = "/v1/transfers"
BULK = f"{TRANSFERS}/bulk"
KEYS = "/v1/idempotency-keys"
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
            ledger: [Client(url, rig.keys[ledger], CONNECTIONS_MAX) for url in rig.urls] for ledger in LEDGERS
        }

    async def close(self) -> None:
        """End all connections."""
        for callers in self.callers.values():
            for caller in callers:
                await caller.close()


class Sender:
    """Sends for one client in one ledger."""

    def __init__(self, traffic: Traffic, ledger: str, process: str) -> None:
        self.process = process
        self._traffic = traffic
        self._ledger = ledger
        self._rig = traffic.rig
        self._counts = traffic.rig.counts
        self._recorder = traffic.recorder

    async def transfer(self, key: str, body: str, server: int | None = None) -> Heard:
        """Send a transfer once."""
        return await self._ask("transfer", TRANSFERS, key, body, server)

    async def read_account(self, account: str) -> Heard:
        """Read an account through either server."""
        away = self._rig.away[REDIS] > 0
        answer = await self._ask("read", f"/v1/accounts/{quote(account, safe='')}")
        if away and self._rig.away[REDIS] and answer.status == 200:
            self._counts["account read while Redis was away"] += 1
        return answer

    async def list_some(self, path: str) -> Heard:
        """Ask for a page of a list."""
        return await self._ask("list", path)

    async def look_up(self, key: str) -> Heard:
        """Ask what a key is bound to."""
        return await self._ask("look-up", f"{KEYS}/{quote(key, safe='')}", key)

    async def send_bulk(self, items: list[tuple[str, str]], *, atomic: bool) -> list[Heard]:
        """Send transfers with their keys in one request, once; the items as bodies without keys."""
        numbers = self._recorder.invoke_bulk(items, process=self.process, path=BULK, atomic=atomic, ledger=self._ledger)
        listed = [{"key": key, **json.loads(body)} for key, body in items]
        answer = await self._send(BULK, body=json.dumps({"atomic": atomic, "transfers": listed}))
        return self._recorder.answered_bulk(numbers, answer.status, answer.response)

    async def insist(self, key: str, body: str, *, again: bool = False) -> Heard:
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
            answer = await self.transfer(key, body)
            if answer.settled:
                self._resolved(answer, lost, again=again, redis_away=redis and away[REDIS] > 0)
                return answer
            lost += answer.outcome == UNKNOWN
            if answer.status == 503 and answer.outcome == FAIL and postgres:
                self._counts["write refused while PostgreSQL was away"] += 1
            if answer.status == 503 and answer.outcome == UNKNOWN:
                self._counts["service did not know the outcome and said so"] += 1
            if lost and dice.random() < 0.5:
                await self.look_up(key)
            await asyncio.sleep(pause * dice.uniform(0.5, 1.5))
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
        self._rig.violations.append(
            f"{self.process}: {key} has no known outcome after {INSIST_SECONDS_MAX:.0f} s: {answer}"
        )
        return answer

    async def insist_bulk(self, items: list[tuple[str, str]], *, atomic: bool) -> list[Heard]:
        """Send a bulk until it is known what became of each item."""
        deadline = time.monotonic() + INSIST_SECONDS_MAX
        while True:
            answers = await self.send_bulk(items, atomic=atomic)
            if all(answer.settled for answer in answers):
                return answers
            if time.monotonic() > deadline:
                self._rig.violations.append(f"{self.process}: the bulk {items[0][0]} has no known outcome: {answers}")
                return answers
            await asyncio.sleep(PAUSE_SECONDS_MAX * self._traffic.dice.uniform(0.2, 1))

    def _resolved(self, answer: Heard, lost: int, *, again: bool, redis_away: bool) -> None:
        """Count what a known outcome tells of the way there."""
        counts = self._counts
        if again:
            lost = 0
        if lost and answer.status == 201:
            counts["lost answer: had been applied" if answer.replayed else "lost answer: had not been applied"] += 1
        elif lost and answer.outcome == FAIL and answer.replayed:
            counts["lost answer: had been refused"] += 1
        if answer.replayed:
            counts["replayed while Redis was away" if redis_away else "replayed"] += 1

    async def _ask(self, operation: str, path: str, key: str = "", body: str = "", server: int | None = None) -> Heard:
        number = self._recorder.invoke(
            operation, process=self.process, ledger=self._ledger, path=path, key=key, request=body
        )
        # A look-up names its key in its path.
        answer = await self._send(path, key if body else "", body, server)
        return self._recorder.answered(number, answer.status, answer.response, replayed=answer.replayed)

    async def _send(self, path: str, key: str = "", body: str = "", server: int | None = None) -> Heard:
        traffic = self._traffic
        callers = traffic.callers[self._ledger]
        caller = callers[traffic.dice.randrange(len(callers)) if server is None else server]
        seconds = ANSWER_SECONDS_MAX
        if self._rig.hang_up and traffic.dice.random() < HANG_UP_SHARE:
            seconds = traffic.dice.uniform(0, PATIENCE_SECONDS_MAX)
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
