"""What locust loads, started by `make load`: the users of the scenario that the plan names, and a shape."""

import atexit
import contextlib
import functools
import http.client
import itertools
import json
import os
import random
import re
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, LoadTestShape, constant, constant_throughput, events
from locust.exception import StopUser
from locust.runners import WorkerRunner
from locust.user.task import LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from loadtests.history.recorder import OK, Heard, HistoryFullError, Recorder, problem_of
from loadtests.kit.catalogue import SCENARIOS
from loadtests.kit.plan import KEY_VARIABLE, KNEE_SETTLE_SECONDS, PLAN_VARIABLE, KneeSearch, Plan, users_at
from loadtests.payers import Act, Habits, Payer, Request

# The program that started locust has made the plan.
PLAN = Plan(*json.loads(os.environ[PLAN_VARIABLE]))
HABITS = Habits(amount_max=500, items=20, at_once=3, pause_max=3.0, again_one_in=4, lose_one_in=20)
# Seconds for one answer: above the server's own deadlines, so that the server answers before the client gives up.
ANSWER_SECONDS_MAX = 30.0
# Latest close of the connection of a lost answer, in seconds after sending: before, while or after it is executed.
LISTENED_SECONDS_MAX = 0.02
# Bytes of one process's history; a payment and its answer take about 900. The check holds all of it in memory.
HISTORY_BYTES_MAX = 1024**3
# Users that start or stop in a second under a shape: enough that all of them do so nearly at once.
SPAWN_RATE = 100.0
# Matches an id in a path.
_ID = re.compile("(/v1/[a-z-]+)/(?!bulk$)[^/]+")
T = TypeVar("T")
_numbers = itertools.count(1)

# Locust uses it to choose the tasks of all users.
random.seed(PLAN.seed)
# A process that a shell started in the background would ignore SIGINT, which asks locust to end and report.
signal.signal(signal.SIGINT, signal.default_int_handler)


def finished(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, because its I/O blocks as under gevent, and return its result."""
    try:
        steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # of the coroutine
    raise RuntimeError("a coroutine of a virtual user waits by itself")


@functools.cache
def history() -> Recorder:
    """Return the history of this process, which is opened by its first user."""
    recorder = Recorder(Path(PLAN.folder) / f"history-{os.getpid()}.jsonl", bytes_max=HISTORY_BYTES_MAX)
    atexit.register(recorder.close)
    return recorder


class LocustPayer(Payer):
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
            # Uncompressed answers are compared byte for byte.
            "Accept-Encoding": "identity",
        }

    async def send(self, request: Request) -> Heard:
        """Send a request; a status that is no success and was not expected counts as a failure."""
        if request.deaf:
            return self._send_deaf(request)
        path, body, method = request.path, request.body or None, "POST" if request.body else "GET"
        headers = {**self._headers, **({"Idempotency-Key": request.key} if request.key else {})}
        # The statistics have one line for all accounts, one for all keys and one for all transfers.
        name = _ID.sub(r"\1/ID", path)
        with self._client.request(method, path, data=body, headers=headers, name=name, catch_response=True) as response:
            status, text = response.status_code or 0, response.text or ""
            heard = Heard.told(status, text if status else "no answer", response.headers or {})
            if status in request.expected or heard.outcome == OK:
                response.success()
            else:
                response.failure(f"{status} {problem_of(text).get('code', '') or response.error or ''}".rstrip())
            return heard

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
        """Send all requests at once, each on its own connection."""
        running = [gevent.spawn(finished, sending) for sending in sendings]
        gevent.joinall(running, timeout=2 * ANSWER_SECONDS_MAX)
        return [each.value for each in running if each.value is not None]


def _task(act: Act) -> "Callable[[ScenarioUser], None]":
    def task(user: "ScenarioUser") -> None:
        try:
            finished(act(user.payer))
        except HistoryFullError as error:
            # A user stops when it cannot record, because nothing unrecorded may be sent.
            (Path(PLAN.folder) / "full").write_text(f"{error}\n", encoding="utf-8")
            raise StopUser from error

    return task


class ScenarioUser(FastHttpUser):
    # Certificates are verified, because requests carry an API key.
    insecure = False
    network_timeout = ANSWER_SECONDS_MAX
    connection_timeout = ANSWER_SECONDS_MAX
    host = PLAN.url
    wait_time = constant_throughput(PLAN.pace) if PLAN.pace else constant(0)
    tasks = {_task(act): weight for act, weight in SCENARIOS[PLAN.scenario].acts.items()}  # noqa: RUF012 -- of locust
    _state: str | None

    def on_start(self) -> None:
        self.payer = LocustPayer(self)

    def stop(self, force: bool = False) -> bool:
        """End after the current request; locust would kill a user that is just about to send, and lose its answer."""
        if not force and self._state == LOCUST_STATE_WAITING:
            self._state = LOCUST_STATE_STOPPING
            return False
        stopped: bool = super().stop(force)
        return stopped


class Shape(LoadTestShape):
    """Sets the number of users at each instant: by a curve, or doubled step by step."""

    search = KneeSearch(PLAN.users, PLAN.seconds)
    # When counting began in this step and the answers up to then, which are not counted.
    _counted: tuple[float, int] | None = None

    def tick(self) -> tuple[int, float] | None:
        if PLAN.shape == "knee":
            users = self._next_step()
        else:
            users = users_at(PLAN.shape, PLAN.users, PLAN.seconds, self.get_run_time())
        return None if users is None else (users, SPAWN_RATE)

    def _next_step(self) -> int | None:
        if self.runner is None or self.get_current_user_count() == 0:
            self.reset_time()
            return self.search.users
        now, total = self.get_run_time(), self.runner.stats.total
        if self._counted is None and now >= KNEE_SETTLE_SECONDS:
            self._counted = now, total.num_requests
        if now >= self.search.step_seconds and self._counted is not None:
            since, count = self._counted
            rate = (total.num_requests - count) / (now - since)
            if self.search.step_is_over(rate, total.get_current_response_time_percentile(0.95) or 0.0):
                return None
            self.reset_time()
            self._counted = None
        return self.search.users


@events.init.add_listener
def look_at_the_clock(**_: Any) -> None:
    """Update gevent's clock: the run begins now, not before the imports above, which may take seconds."""
    gevent.get_hub().loop.update_now()


@events.quitting.add_listener
def write_figures(environment: Any, **_: Any) -> None:
    """Close the history; in the process that knows the figures, write them to the file that the judge reads."""
    # After an interruption, users are still running here.
    if environment.runner.user_count:
        environment.runner.stop()
    if history.cache_info().currsize:
        history().close()
    if isinstance(environment.runner, WorkerRunner):
        return
    entries = environment.stats.entries.values()
    requests = sum(entry.num_requests for entry in entries)
    failures = sum(entry.num_failures for entry in entries)
    found = {
        "requests": requests,
        "failures": failures,
        "error_rate": failures / requests if requests else 1.0,
        "exceptions": len(environment.runner.exceptions),
    }
    if Shape.search.knee is not None:
        found |= {"knee": Shape.search.knee, "steps": Shape.search.steps}
    (Path(PLAN.folder) / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    # The share of failures is judged by `make load`, not by locust.
    environment.process_exit_code = 0
