"""The virtual users of locust: what those of each scenario do, and how their requests are sent."""

import http.client
import itertools
import math
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, constant, constant_throughput
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from loadtests.history.recorder import OK, Heard, HistoryFullError, Recorder, outcome_of, problem_of
from loadtests.kit.plan import KEY_VARIABLE, from_environment
from loadtests.payers import Act, Habits, Payer, Request

PLAN = from_environment()
HABITS = Habits(amount_max=500, items=20, at_once=3, pause_max=3.0, again_one_in=4, lose_one_in=20)
# Seconds for one answer: above the server's own deadlines, so that it and not our impatience decides.
ANSWER_SECONDS_MAX = 30.0
# Seconds after sending within which a lost answer's connection is closed: before, while and after it is executed.
LISTENED_SECONDS_MAX = 0.02
# Bytes of the history of one process; a payment and its answer take about 900. The check holds it in memory.
HISTORY_BYTES_MAX = 1024**3
T = TypeVar("T")
_numbers = itertools.count(1)


def finished(steps: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine comes to whose wire has done all that it asks for when it is asked, as under gevent."""
    try:
        steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # of the coroutine
    raise RuntimeError("a coroutine of a virtual user waits by itself")


class Notes:
    """The history of this process: opened with its first user, closed when locust quits."""

    recorder: Recorder | None = None

    @classmethod
    def open(cls) -> Recorder:
        """Return the recorder."""
        if cls.recorder is None:
            path = Path(PLAN.folder) / f"history-{os.getpid()}.jsonl"
            cls.recorder = Recorder(path, bytes_max=HISTORY_BYTES_MAX)
        return cls.recorder

    @classmethod
    def close(cls) -> None:
        """Write what waits."""
        if cls.recorder is not None:
            cls.recorder.close()
            cls.recorder = None


class LedgerUser(FastHttpUser):
    """A user with one API key and many payments; what it does is in `SCENARIOS`."""

    # A key is sent: only to whom the certificate names.
    insecure = False
    network_timeout = ANSWER_SECONDS_MAX
    connection_timeout = ANSWER_SECONDS_MAX
    host = PLAN.url
    _state: str | None
    wait_time = constant_throughput(PLAN.pace) if PLAN.pace else constant(0)

    def on_start(self) -> None:
        """Give the user its name and its choices."""
        number = next(_numbers)
        worker = getattr(self.environment.runner, "worker_index", 0)
        name = f"{os.getpid()}-{number}"
        self.payer = Payer(
            *(self, Notes.open(), name),
            prefix=f"{PLAN.run}-{name}-",
            accounts=PLAN.accounts,
            habits=HABITS,
            seed=f"{PLAN.seed}:{PLAN.scenario}:{worker}-{number}",
        )
        self._headers = {
            "Authorization": f"Bearer {os.environ[KEY_VARIABLE]}",
            "Content-Type": "application/json",
            # What is not compressed is compared byte for byte.
            "Accept-Encoding": "identity",
        }

    def stop(self, force: bool = False) -> bool:
        """Go home after what is under way; locust would kill a user that is just about to send, and lose its answer."""
        if not force and self._state == LOCUST_STATE_WAITING:
            self._state = LOCUST_STATE_STOPPING
            return False
        stopped: bool = super().stop(force)
        return stopped

    async def send(self, request: Request) -> Heard:
        """Send a request, and fail what is no success and was not expected; 429 that was has a name of its own."""
        path, body, method = request.path, request.body or None, "POST" if request.body else "GET"
        headers = {**self._headers, **({"Idempotency-Key": request.key} if request.key else {})}
        # All accounts are one line of the statistics, and so are all keys.
        name = path if body else f"{path.rpartition('/')[0]}/ID"
        with self.client.request(method, path, data=body, headers=headers, name=name, catch_response=True) as response:
            status, text = response.status_code or 0, response.text or ""
            if status in request.expected or (status and outcome_of(status, text) == OK):
                if status == 429:
                    response.request_meta["name"] = f"{path} (limited)"
                response.success()
            else:
                response.failure(f"{status} {problem_of(text).get('code', '') or response.error or ''}".rstrip())
            told = response.headers or {}
            retry_after = told.get("Retry-After") or ""
            wait = int(retry_after) if retry_after.isdigit() else 0
            return Heard.of(status, text if status else "no answer", told.get("Idempotent-Replayed") == "true", wait)

    async def send_deaf(self, request: Request) -> None:
        """Send a payment and close the connection without an answer."""
        began = time.monotonic()
        address = urlsplit(PLAN.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=ANSWER_SECONDS_MAX)
        failed: OSError | None = None
        try:
            connection.request("POST", request.path, request.body, {**self._headers, "Idempotency-Key": request.key})
            gevent.sleep(self.payer.dice.uniform(0, LISTENED_SECONDS_MAX))
        except OSError as error:
            failed = error
        finally:
            connection.close()
        self.environment.events.request.fire(
            request_type="POST",
            name=f"{request.path} (answer lost)",
            response_time=(time.monotonic() - began) * 1e3,
            response_length=0,
            exception=failed,
            context={},
        )

    async def pause(self, seconds: float) -> None:
        """Let other users run."""
        gevent.sleep(seconds)

    async def together(self, sendings: Sequence[Coroutine[Any, Any, Heard]]) -> list[Heard]:
        """Send at once, each on a connection of its own."""
        running = [gevent.spawn(finished, sending) for sending in sendings]
        gevent.joinall(running, timeout=2 * ANSWER_SECONDS_MAX)
        return [each.value for each in running if each.value is not None]


async def flood(payer: Payer) -> None:
    """Send a payment once. A 429 must say when there is room again, which is when the next token comes."""
    heard = await payer.transfer(*payer.payment(payer.pair()), expected=(429,))
    if heard.status == 429 and PLAN.limit is not None:
        latest = math.ceil(1 / PLAN.limit.rate)
        if not 1 <= heard.retry_after <= latest:
            raise AssertionError(f"429 with Retry-After {heard.retry_after}, not 1 to {latest}")


# What the users of each scenario do, and how often.
SCENARIOS: dict[str, dict[Act, int]] = {
    "reads": {Payer.read: 9, Payer.pay_and_read: 1},
    "payments": {Payer.pay: 98, Payer.overdraw: 2},
    "retry_storm": {Payer.storm: 1},
    "hot_account": {Payer.pay_hot: 1, Payer.pay: 9},
    "flood": {flood: 1},
    "mixed": {
        Payer.pay: 63,
        Payer.pay_hot: 8,
        Payer.read: 20,
        Payer.pay_and_read: 3,
        Payer.overdraw: 1,
        Payer.confuse: 5,
    },
    "bulk": {Payer.bulk: 1, Payer.atomic: 1},
}


def _task(act: Act) -> Callable[[LedgerUser], None]:
    def task(user: LedgerUser) -> None:
        try:
            finished(act(user.payer))
        except HistoryFullError as error:
            # Nothing may be sent that nobody will check.
            (Path(PLAN.folder) / "full").write_text(f"{error}\n", encoding="utf-8")
            raise StopUser from error

    return task


class ScenarioUser(LedgerUser):
    """A user of the scenario that the plan names."""

    tasks = {_task(act): weight for act, weight in SCENARIOS[PLAN.scenario].items()}  # noqa: RUF012 -- of locust
