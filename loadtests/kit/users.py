"""The virtual users of locust: what those of each scenario do, and how their requests are sent."""

import contextlib
import functools
import http.client
import itertools
import math
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, constant, constant_throughput
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from loadtests.history.recorder import OK, Heard, HistoryFullError, Recorder, outcome_of, problem_of
from loadtests.kit.plan import KEY_VARIABLE, PLAN_VARIABLE, read
from loadtests.payers import Act, Habits, Payer, Request

# Made by whoever has started locust.
PLAN = read(os.environ[PLAN_VARIABLE])
HABITS = Habits(amount_max=500, items=20, at_once=3, pause_max=3.0, again_one_in=4, lose_one_in=20)
# Seconds for one answer: above the server's own deadlines, so that it and not our impatience decides.
ANSWER_SECONDS_MAX = 30.0
# Seconds after sending within which a lost answer's connection is closed: before, while and after it is executed.
LISTENED_SECONDS_MAX = 0.02
# Bytes of the history of one process; a payment and its answer take about 900. The check holds it in memory.
HISTORY_BYTES_MAX = 1024**3
# What is named in a path.
_ID = re.compile("(/v1/[a-z-]+)/(?!bulk$)[^/]+")
T = TypeVar("T")
_numbers = itertools.count(1)


def finished(steps: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine comes to whose wire has done all that it asks for when it is asked, as under gevent."""
    try:
        steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # of the coroutine
    raise RuntimeError("a coroutine of a virtual user waits by itself")


@functools.cache
def history() -> Recorder:
    """Return the history of this process, which is opened with its first user."""
    return Recorder(Path(PLAN.folder) / f"history-{os.getpid()}.jsonl", bytes_max=HISTORY_BYTES_MAX)


def close_history() -> None:
    """Write what waits, where there was a user."""
    if history.cache_info().currsize:
        history().close()


class LocustPayer(Payer):
    """A payer whose requests are those of a user of locust, under gevent."""

    def __init__(self, user: FastHttpUser) -> None:
        number = next(_numbers)
        worker = getattr(user.environment.runner, "worker_index", 0)
        name = f"{os.getpid()}-{number}"
        super().__init__(
            *(history(), name),
            prefix=f"{PLAN.run}-{name}-",
            accounts=PLAN.accounts,
            habits=HABITS,
            seed=f"{PLAN.seed}:{PLAN.scenario}:{worker}-{number}",
        )
        self._client = user.client
        self._headers = {
            "Authorization": f"Bearer {os.environ[KEY_VARIABLE]}",
            "Content-Type": "application/json",
            # What is not compressed is compared byte for byte.
            "Accept-Encoding": "identity",
        }

    async def send(self, request: Request) -> Heard:
        """Send a request, and fail what is no success and was not expected."""
        if request.deaf:
            return self._send_deaf(request)
        path, body, method = request.path, request.body or None, "POST" if request.body else "GET"
        headers = {**self._headers, **({"Idempotency-Key": request.key} if request.key else {})}
        # All accounts are one line of the statistics, and so are all keys and all transfers.
        name = _ID.sub(r"\1/ID", path)
        with self._client.request(method, path, data=body, headers=headers, name=name, catch_response=True) as response:
            status, text = response.status_code or 0, response.text or ""
            if status in request.expected or (status and outcome_of(status, text) == OK):
                response.success()
            else:
                response.failure(f"{status} {problem_of(text).get('code', '') or response.error or ''}".rstrip())
            told = response.headers or {}
            retry_after = told.get("Retry-After") or ""
            wait = int(retry_after) if retry_after.isdigit() else 0
            return Heard.of(status, text if status else "no answer", told.get("Idempotent-Replayed") == "true", wait)

    def _send_deaf(self, request: Request) -> Heard:
        address = urlsplit(PLAN.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=ANSWER_SECONDS_MAX)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("POST", request.path, request.body, {**self._headers, "Idempotency-Key": request.key})
            gevent.sleep(self.dice.uniform(0, LISTENED_SECONDS_MAX))
        return Heard.of(0, "not listened for")

    async def pause(self, seconds: float) -> None:
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
    "checkout": {Payer.checkout: 8, Payer.overcapture: 1, Payer.let_expire: 1},
    "bulk": {Payer.bulk: 1, Payer.atomic: 1},
}


def _task(act: Act) -> "Callable[[ScenarioUser], None]":
    def task(user: "ScenarioUser") -> None:
        try:
            finished(act(user.payer))
        except HistoryFullError as error:
            # Nothing may be sent that nobody will check.
            (Path(PLAN.folder) / "full").write_text(f"{error}\n", encoding="utf-8")
            raise StopUser from error

    return task


class ScenarioUser(FastHttpUser):
    """A user of the scenario that the plan names, with one API key."""

    # A key is sent: only to whom the certificate names.
    insecure = False
    network_timeout = ANSWER_SECONDS_MAX
    connection_timeout = ANSWER_SECONDS_MAX
    host = PLAN.url
    wait_time = constant_throughput(PLAN.pace) if PLAN.pace else constant(0)
    tasks = {_task(act): weight for act, weight in SCENARIOS[PLAN.scenario].items()}  # noqa: RUF012 -- of locust
    _state: str | None

    def on_start(self) -> None:
        self.payer = LocustPayer(self)

    def stop(self, force: bool = False) -> bool:
        """Go home after what is under way; locust would kill a user that is just about to send, and lose its answer."""
        if not force and self._state == LOCUST_STATE_WAITING:
            self._state = LOCUST_STATE_STOPPING
            return False
        stopped: bool = super().stop(force)
        return stopped
