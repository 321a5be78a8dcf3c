"""What all virtual users can do: send, write down what they sent and heard, and ask again until they know."""

import http.client
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import gevent
from locust import FastHttpUser, constant, constant_throughput
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from loadtests.history.recorder import NOT_NOW, OK, HistoryFullError, Recorder, problem_of
from loadtests.kit.plan import KEY_VARIABLE, from_environment
from loadtests.kit.traffic import Traffic, body_of, transfer

PLAN = from_environment()
TRANSFERS = "/v1/transfers"
# Seconds for one answer: above the server's own deadlines, so that it and not our impatience decides.
ANSWER_SECONDS_MAX = 30.0
# Sendings of one request until its outcome must be known, and seconds between them: what the answer says, within these.
# A user that is going home waits no longer for an hour's `Retry-After` than for a busy server.
SENDINGS_MAX = 20
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 3.0
# Seconds after sending within which a lost answer's connection is closed: before, while and after it is executed.
LISTENED_SECONDS_MAX = 0.02
# Bytes of the history of one process; a payment and its answer take about 900. The check holds it in memory.
HISTORY_BYTES_MAX = 1024**3
T = TypeVar("T")
_numbers = itertools.count(1)


class Answer(NamedTuple):
    """What came back; status 0 is no answer. `settled` tells that the same key will never be answered otherwise."""

    status: int
    retry_after: str
    settled: bool


def wait_of(retry_after: str | None) -> float:
    """Return the seconds between two sendings: what a `Retry-After` asks for, within bounds."""
    asked = float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.0
    return min(PAUSE_SECONDS_MAX, max(PAUSE_SECONDS, asked))


class Notes:
    """The history of this process: opened with its first request, closed when locust quits."""

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
    """A user with one API key and many payments; scenarios say what it does."""

    abstract = True
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
        self.name = f"{os.getpid()}-{number}"
        self.traffic = Traffic(PLAN, f"{worker}-{number}")
        self._keys = itertools.count(1)
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

    def new_key(self) -> str:
        """Return an idempotency key that nobody has used."""
        return f"{PLAN.run}-{self.name}-{next(self._keys)}"

    def pay(
        self, pair: tuple[str, str], amount: int, *, lose: bool = False, again: bool = False, refused: bool = False
    ) -> Answer:
        """
        Send a payment until its outcome is known.

        Args:
            lose: Whether to close the connection on the first answer.

            again: Whether to ask once more when it is known: the answer must be the same.

            refused: Whether a refusal is what is expected.
        """
        key = self.new_key()
        body = body_of(transfer(*pair, amount, key))
        if lose:
            self.send_deaf(key, body)
        if again:
            self.insist(key, body, refused=refused)
        return self.insist(key, body, refused=refused)

    def insist(self, key: str, body: str, *, refused: bool = False) -> Answer:
        """Send the same request until it has the answer that its key has for ever; bounded by SENDINGS_MAX."""
        answer = Answer(0, "", settled=False)
        for _ in range(SENDINGS_MAX):
            answer = self.send_transfer(key, body, expected=(409,) if refused else ())
            if answer.settled:
                break
            gevent.sleep(wait_of(answer.retry_after))
        return answer

    def send_transfer(
        self, key: str, body: str, *, process: str = "", name: str = TRANSFERS, expected: tuple[int, ...] = ()
    ) -> Answer:
        """Send a payment once; statuses that are *expected* are no failures, and 429 then has a name of its own."""
        number = self._invoke("transfer", TRANSFERS, key, body, process)
        with self.client.post(
            TRANSFERS,
            data=body,
            headers={**self._headers, "Idempotency-Key": key},
            name=name,
            catch_response=True,
        ) as response:
            answer = self._heard(number, response)
            if answer.status in expected:
                if answer.status == 429:
                    response.request_meta["name"] = f"{name} (limited)"
                response.success()
            return answer

    def send_deaf(self, key: str, body: str) -> None:
        """Send a payment and close the connection without an answer."""
        number = self._invoke("transfer", TRANSFERS, key, body)
        began = time.monotonic()
        address = urlsplit(PLAN.url)
        tls = address.scheme == "https"
        kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=ANSWER_SECONDS_MAX)
        failed: OSError | None = None
        try:
            connection.request("POST", TRANSFERS, body, {**self._headers, "Idempotency-Key": key})
            gevent.sleep(self.traffic.random.uniform(0, LISTENED_SECONDS_MAX))
        except OSError as error:
            failed = error
        finally:
            connection.close()
        Notes.open().lost(number, "not listened for")
        self.environment.events.request.fire(
            request_type="POST",
            name=f"{TRANSFERS} (answer lost)",
            response_time=(time.monotonic() - began) * 1e3,
            response_length=0,
            exception=failed,
            context={},
        )

    def read(self, account: str) -> None:
        """Read an account."""
        path = f"/v1/accounts/{quote(account, safe='')}"
        number = self._invoke("read", path)
        with self.client.get(path, headers=self._headers, name="/v1/accounts/ID", catch_response=True) as response:
            self._heard(number, response)

    def send_bulk(self, items: list[tuple[str, dict[str, object]]], *, atomic: bool) -> None:
        """Send transfers with their keys in one request, again where it was not answered; bounded."""
        path = f"{TRANSFERS}/bulk"
        noted = [(key, body_of(fields)) for key, fields in items]
        sent = body_of({"atomic": atomic, "transfers": [{"key": key, **fields} for key, fields in items]})
        for _ in range(SENDINGS_MAX):
            numbers = self._noted(lambda: Notes.open().invoke_bulk(noted, process=self.name, path=path, atomic=atomic))
            with self.client.post(path, data=sent, headers=self._headers, name=path, catch_response=True) as response:
                status, text = response.status_code or 0, response.text or ""
                answers = Notes.open().answered_bulk(numbers, status, text)
                if status == 200:
                    wrong = {answer.status for answer in answers} - {201}
                    if wrong:
                        response.failure(f"items were answered {sorted(wrong)}")
                    return
                response.failure(f"{status} {problem_of(text).get('code', '')}")
                if status not in NOT_NOW and 0 < status < 500:
                    return
                wait = wait_of((response.headers or {}).get("Retry-After"))
            gevent.sleep(wait)

    def _invoke(self, operation: str, path: str, key: str = "", body: str = "", process: str = "") -> int:
        who = process or self.name
        return self._noted(lambda: Notes.open().invoke(operation, process=who, path=path, key=key, request=body))

    def _noted(self, note: Callable[[], T]) -> T:
        try:
            return note()
        except HistoryFullError as error:
            # Nothing may be sent that nobody will check.
            (Path(PLAN.folder) / "full").write_text(f"{error}\n", encoding="utf-8")
            raise StopUser from error

    def _heard(self, number: int, response: Any) -> Answer:
        """Note an answer, and fail what is no success."""
        status, body = response.status_code or 0, response.text or ""
        headers = response.headers or {}
        replayed = headers.get("Idempotent-Replayed") == "true"
        heard = Notes.open().answered(number, status, body if status else "no answer", replayed=replayed)
        if heard.outcome == OK:
            response.success()
        else:
            response.failure(f"{status} {problem_of(body).get('code', '') or response.error or ''}".rstrip())
        return Answer(status, headers.get("Retry-After") or "", heard.settled)
