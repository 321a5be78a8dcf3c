"""The clients of chaos: which kinds there are, and how their requests reach either server."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from loadtests.chaos.rig import LEDGERS, Rig
from loadtests.history.recorder import Heard, Recorder
from loadtests.payers import Act, Habits, Payer, Request

PREFIX = "chaos:"
WORLD = f"{PREFIX}world"
# The hot account, for which many requests queue, and a few others, so that many requests meet at the same accounts.
ACCOUNTS = [f"{PREFIX}hot", *(f"{PREFIX}{number}" for number in range(24))]
# Opening balance of each account: little, so that some run dry.
FUNDS = 400
HABITS = Habits(amount_max=5, items=5, at_once=4, pause_max=0.5, again_one_in=5, unpayable_one_in=20, hold_max=10)
# Seconds that a client thinks, on average: all clients send about 300 requests a second, which leaves room on two
# cores.
THINK_SECONDS = 0.3
READER_THINK_SECONDS = 0.1
# Each kind of client and how many there are in the main ledger; the other ledger has a quarter of them.
ROLES: dict[Act, int] = {
    Payer.pay: 8,
    Payer.storm: 3,
    Payer.pay_hot: 4,
    Payer.bulk: 4,
    Payer.overdraw: 2,
    Payer.confuse: 2,
    Payer.checkout: 4,
    Payer.let_expire: 8,
    Payer.overcapture: 2,
    Payer.read: 12,
    Payer.statement: 2,
}
# Limit for one answer: above the service's own deadlines, so that the service answers before the client gives up.
ANSWER_SECONDS_MAX = 10.0
# The latest that a client hangs up, in seconds: before, while or after its request is executed.
PATIENCE_SECONDS_MAX = 0.02
# Share of its requests for which a client that hangs up does not wait for the answer.
HANG_UP_SHARE = 0.4


class Client(Payer):
    """Is one client. Its keys begin with its name and are the same in both ledgers, which is allowed."""

    def __init__(self, rig: Rig, recorder: Recorder, ledger: str, name: str, seed: int) -> None:
        process = f"{ledger}/{name}"
        self._rig = rig
        self._callers = rig.callers[ledger]
        super().__init__(
            *(recorder, process),
            prefix=f"{name}-",
            accounts=ACCOUNTS,
            habits=HABITS,
            ledger=ledger,
            seed=f"{seed} {process}",
        )

    async def run(self, act: Act) -> None:
        think = READER_THINK_SECONDS if act is Payer.read else THINK_SECONDS
        while not self._rig.stopped:
            await act(self)
            await asyncio.sleep(self.dice.uniform(0, 2 * think))

    def gave_up(self, key: str, heard: Heard) -> None:
        self._rig.violations.append(f"{self.process}: {key} has no known outcome: {heard}")

    async def send(self, request: Request) -> Heard:
        """Send a request to the server whose turn it is, or to a random one; sometimes hang up before the answer."""
        rig, callers = self._rig, self._callers
        turn = self.dice.randrange(len(callers)) if request.turn is None else request.turn % len(callers)
        hangs_up = request.deaf or (rig.hang_up and self.dice.random() < HANG_UP_SHARE)
        seconds = self.dice.uniform(0, PATIENCE_SECONDS_MAX) if hangs_up else ANSWER_SECONDS_MAX
        sent = time.monotonic()
        method, data = ("POST", request.body.encode()) if request.body else ("GET", None)
        heard = await callers[turn].ask(method, request.path, data, request.key, seconds)
        if 0 < heard.status < 500 and heard.status != 429:
            # This answer shows that the service works.
            rig.answered[self.process] = max(sent, rig.answered.get(self.process, 0.0))
        return heard

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, sendings: Sequence[Coroutine[Any, Any, Heard]]) -> list[Heard]:
        return await asyncio.gather(*sendings)


def make_clients(rig: Rig, recorder: Recorder, seed: int) -> list[tuple[Client, Act]]:
    return [
        (Client(rig, recorder, ledger, f"{act.__name__}-{number}", seed), act)
        for ledger, share in zip(LEDGERS, (1, 4), strict=True)
        for act, count in ROLES.items()
        for number in range(max(1, count // share))
    ]
