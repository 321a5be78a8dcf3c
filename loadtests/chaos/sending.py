"""How the clients send: to either server, written down before and after, again until they know what became of it."""

import asyncio
import json
import random
import time
from typing import NamedTuple
from urllib.parse import quote

from loadtests.chaos.plan import POSTGRES, REDIS
from loadtests.chaos.rig import LEDGERS, Rig
from loadtests.client import NOT_NOW, Client, NoAnswer
from loadtests.history.recorder import FAIL, OK, UNKNOWN, Recorder, outcome_of

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


class Request(NamedTuple):
    """What is sent, by whom, in which ledger."""

    process: str
    ledger: str
    path: str
    key: str = ""
    body: str = ""


class Answer(NamedTuple):
    """What came back; status 0 is no answer."""

    status: int
    body: str
    replayed: bool
    outcome: str

    @property
    def known(self) -> bool:
        """Whether the same request will never be answered otherwise."""
        return self.outcome == OK or (self.outcome == FAIL and self.status not in NOT_NOW)

    @property
    def good(self) -> bool:
        """Whether the service works."""
        return self.status != 0 and self.status < 500 and self.status != 429


LOST = Answer(0, "", False, UNKNOWN)


class Sender:
    """
    Sends for all clients.

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
        self._clients = {
            ledger: [Client(url, rig.keys[ledger], CONNECTIONS_MAX) for url in rig.urls] for ledger in LEDGERS
        }
        self._dice = random.Random(seed)

    async def transfer(self, process: str, ledger: str, key: str, body: str, server: int | None = None) -> Answer:
        """Send a transfer once."""
        return await self._ask("transfer", Request(process, ledger, TRANSFERS, key, body), server)

    async def read(self, process: str, ledger: str, account: str) -> Answer:
        """Read an account through either server."""
        away = self.rig.away[REDIS] > 0
        answer = await self._ask("read", Request(process, ledger, f"/v1/accounts/{quote(account, safe='')}"))
        if away and self.rig.away[REDIS] and answer.status == 200:
            self.rig.counts["account read while Redis was away"] += 1
        return answer

    async def list_some(self, process: str, ledger: str, path: str) -> Answer:
        """Ask for a page of a list."""
        return await self._ask("list", Request(process, ledger, path))

    async def look_up(self, process: str, ledger: str, key: str) -> Answer:
        """Ask what a key is bound to."""
        return await self._ask("look-up", Request(process, ledger, f"{KEYS}/{quote(key, safe='')}", key))

    async def bulk(self, process: str, ledger: str, items: list[tuple[str, str]], *, atomic: bool) -> list[Answer]:
        """Send transfers with their keys in one request, once; the items as bodies without keys."""
        # An atomic set is one request, which its first key names.
        where = f"{BULK} atomic {items[0][0]} {len(items)}" if atomic else BULK
        numbers = [self._invoke("transfer", Request(process, ledger, where, key, body)) for key, body in items]
        listed = [{"key": key, **json.loads(body)} for key, body in items]
        answer = await self._send(
            Request(process, ledger, BULK, body=json.dumps({"atomic": atomic, "transfers": listed}))
        )
        if answer.status != 200:
            for number in numbers:
                self._note(number, answer)
            return [answer for _ in items]
        answers = []
        for number, result in zip(numbers, json.loads(answer.body)["results"], strict=True):
            said = json.dumps(result.get("transfer") or result.get("problem") or {})
            outcome = self.recorder.answered(number, result["status"], said, replayed=result["replayed"])
            answers.append(Answer(result["status"], said, result["replayed"], outcome))
        return answers

    async def insist(self, process: str, ledger: str, key: str, body: str, *, again: bool = False) -> Answer:
        """
        Send a transfer until it is known what became of it; ask for its key at times where an answer was lost.

        Args:
            again: It has been sent before.
        """
        deadline = time.monotonic() + INSIST_SECONDS_MAX
        pause, lost, answer = PAUSE_SECONDS, 0, LOST
        while time.monotonic() < deadline:
            redis, postgres = self.rig.away[REDIS] > 0, self.rig.away[POSTGRES] > 0
            answer = await self.transfer(process, ledger, key, body)
            if answer.known:
                self._resolved(answer, lost, again=again, redis_away=redis and self.rig.away[REDIS] > 0)
                return answer
            lost += answer.outcome == UNKNOWN
            if answer.status == 503 and answer.outcome == FAIL and postgres:
                self.rig.counts["write refused while PostgreSQL was away"] += 1
            if answer.status == 503 and answer.outcome == UNKNOWN:
                self.rig.counts["service did not know the outcome and said so"] += 1
            if lost and self._dice.random() < 0.5:
                await self.look_up(process, ledger, key)
            await asyncio.sleep(pause * self._dice.uniform(0.5, 1.5))
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
        self.rig.violations.append(f"{process}: {key} has no known outcome after {INSIST_SECONDS_MAX:.0f} s: {answer}")
        return answer

    async def insist_bulk(
        self, process: str, ledger: str, items: list[tuple[str, str]], *, atomic: bool
    ) -> list[Answer]:
        """Send a bulk until it is known what became of each item."""
        deadline = time.monotonic() + INSIST_SECONDS_MAX
        while True:
            answers = await self.bulk(process, ledger, items, atomic=atomic)
            if all(answer.known for answer in answers):
                return answers
            if time.monotonic() > deadline:
                self.rig.violations.append(f"{process}: the bulk {items[0][0]} has no known outcome: {answers}")
                return answers
            await asyncio.sleep(PAUSE_SECONDS_MAX * self._dice.uniform(0.2, 1))

    def _resolved(self, answer: Answer, lost: int, *, again: bool, redis_away: bool) -> None:
        """Count what a known outcome tells of the way there."""
        counts = self.rig.counts
        if again:
            lost = 0
        if lost and answer.status == 201:
            counts["lost answer: had been applied" if answer.replayed else "lost answer: had not been applied"] += 1
        elif lost and answer.outcome == FAIL and answer.replayed:
            counts["lost answer: had been refused"] += 1
        if answer.replayed:
            counts["replayed while Redis was away" if redis_away else "replayed"] += 1

    async def _ask(self, operation: str, request: Request, server: int | None = None) -> Answer:
        number = self._invoke(operation, request)
        answer = await self._send(request, server)
        self._note(number, answer)
        return answer

    def _invoke(self, operation: str, request: Request) -> int:
        process, ledger, path, key, body = request
        return self.recorder.invoke(operation, process=process, ledger=ledger, path=path, key=key, request=body)

    def _note(self, number: int, answer: Answer) -> None:
        if answer.status:
            self.recorder.answered(number, answer.status, answer.body, replayed=answer.replayed)
        else:
            self.recorder.lost(number, answer.body)

    async def close(self) -> None:
        """End all connections."""
        for clients in self._clients.values():
            for client in clients:
                await client.close()

    async def _send(self, request: Request, server: int | None = None) -> Answer:
        clients = self._clients[request.ledger]
        client = clients[self._dice.randrange(len(clients)) if server is None else server]
        seconds = ANSWER_SECONDS_MAX
        if self.rig.hang_up and self._dice.random() < HANG_UP_SHARE:
            seconds = self._dice.uniform(0, PATIENCE_SECONDS_MAX)
        sent = time.monotonic()
        method, body = ("POST", request.body.encode()) if request.body else ("GET", None)
        try:
            # A look-up names its key in its path.
            heard = await client.ask(method, request.path, body, request.key if body else "", seconds)
        except NoAnswer as error:
            self.rig.counts["answer lost"] += 1
            return LOST._replace(body=type(error.__cause__).__name__)
        text = heard.body.decode()
        answer = Answer(heard.status, text, heard.replayed, outcome_of(heard.status, text))
        if answer.good:
            self.answered[request.process] = max(sent, self.answered.get(request.process, 0.0))
        return answer
