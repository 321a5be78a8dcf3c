"""
Writes a history: JSON lines, one when a request is sent and one when its outcome is known.

    {"event":"invoke","op":1,"at":12.5,"process":"u1","operation":"transfer","ledger":"main","key":"k1",
     "path":"/v1/transfers","request":"{...}"}
    {"event":"ok","op":1,"at":12.6,"status":201,"replayed":false,"response":"{...}"}     or "fail", or "unknown"
    {"event":"mark","at":30.0,"name":"faults_stopped"}

The long line above is one line in a file. Every file of a run has its own recorder; times are of the monotonic clock
that all processes of a machine share. books.py records the books at the end.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
# The operation that looks up what a key is bound to.
LOOK_UP = "look-up"
# The operation that reads one transfer with what has become of it.
PROGRESS = "progress"
# Statuses of a request that may be sent again later.
NOT_NOW = (408, 429, 503)
# The marks that the liveness check uses.
FAULTS_STARTED, FAULTS_STOPPED = "faults_started", "faults_stopped"


class HistoryFullError(Exception):
    """The file has reached its largest size; nothing more can be recorded."""


def outcome_of(status: int, response: str) -> str:
    """Return what an answer says about its request: `ok`, `fail` (certainly without effect) or `unknown`."""
    if 200 <= status < 300 or status == 304:
        return OK
    # A problem of the ledger states the outcome. For any other answer only the status counts, and 5xx says nothing.
    said = problem_of(response).get("outcome")
    if said in ("not_applied", "refused"):
        return FAIL
    if said is None and 400 <= status < 500:
        return FAIL
    return UNKNOWN


def problem_of(response: str | bytes) -> dict[str, Any]:
    """Return the members of a problem document; none if the text is no JSON object."""
    try:
        document = json.loads(response)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


class Heard(NamedTuple):
    """The answer to a request, or to an item of a bulk, and the outcome that it states; status 0 means no answer."""

    status: int
    response: str
    replayed: bool
    outcome: str
    retry_after: int = 0

    @classmethod
    def of(cls, status: int, response: str, replayed: bool = False, retry_after: int = 0) -> Self:
        """Return an answer with its outcome; without one, the response says why."""
        return cls(status, response, replayed, outcome_of(status, response) if status else UNKNOWN, retry_after)

    @classmethod
    def told(cls, status: int, response: str, headers: Mapping[str, str]) -> Self:
        """Return an answer over HTTP; a Retry-After that is a date, as some balancers send, is left out."""
        wait = headers.get("retry-after", "")
        replayed = headers.get("idempotent-replayed") == "true"
        return cls.of(status, response, replayed, int(wait) if wait.isdigit() else 0)

    @property
    def settled(self) -> bool:
        """Whether the same request with the same key will always get this answer."""
        return self.outcome == OK or (self.outcome == FAIL and self.status not in NOT_NOW)


class Recorder:
    """Appends to one new history file up to its largest size. Needs no lock while one thread uses it."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic, bytes_max: float = math.inf) -> None:
        self._file = path.open("x", encoding="utf-8")
        self._clock = clock
        self._bytes_max = bytes_max
        self._bytes = 0
        self.operations = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def invoke(
        self, operation: str, process: str, path: str, *, ledger: str = "", key: str = "", request: str = ""
    ) -> int:
        """
        Record that a request is about to be sent; return its number, under which its outcome is recorded.

        The record is in the file when this returns, so that a client that is killed has sent nothing unrecorded.

        `operation`: `transfer` (also an item of a bulk, and a capture, void or reversal), `read` (one account), one of
        those named above, or any other. `process`: name of the client, which sends one request after the other.
        """
        if self._bytes > self._bytes_max:
            raise HistoryFullError(f"{self._file.name} has {self._bytes:,} bytes")
        self.operations += 1
        sent = {"operation": operation, "ledger": ledger, "key": key, "path": path, "request": request}
        self._note("invoke", op=self.operations, process=process, **sent)
        self._file.flush()
        return self.operations

    def answered(self, operation: int, heard: Heard) -> Heard:
        """
        Record the answer to a request, byte for byte, or that there was none, in which case its outcome stays unknown.
        """
        status, response, replayed, outcome, _ = heard
        self._note(outcome, op=operation, status=status, replayed=replayed, response=response)
        return heard

    def invoke_bulk(
        self, items: Sequence[tuple[str, str]], process: str, path: str, *, atomic: bool, ledger: str = ""
    ) -> list[int]:
        """Record that a bulk is about to be sent: keys, and items without them; return a number for each item."""
        # An atomic set is one request, named by its first key.
        where = f"{path} atomic {items[0][0]} {len(items)}" if atomic else path
        return [self.invoke("transfer", process, where, ledger=ledger, key=key, request=item) for key, item in items]

    def answered_bulk(self, operations: Sequence[int], heard: Heard) -> list[Heard]:
        """Record the answer to a bulk; return the answer to each item."""
        if heard.status != 200:
            return [self.answered(operation, heard) for operation in operations]
        answers = []
        for operation, result in zip(operations, json.loads(heard.response)["results"], strict=True):
            said = json.dumps(result.get("transfer") or result.get("problem") or {}, separators=(",", ":"))
            answers.append(self.answered(operation, Heard.of(result["status"], said, result["replayed"])))
        return answers

    def mark(self, name: str) -> None:
        """Record that something begins or ends now: FAULTS_STARTED, FAULTS_STOPPED."""
        self._note("mark", name=name)

    def _note(self, kind: str, **fields: object) -> None:
        self.write({"event": kind, "at": self._clock(), **fields})

    def write(self, event: dict[str, object]) -> None:
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        self._bytes += len(line) + 1
        self._file.write(line + "\n")

    def close(self) -> None:
        """Write what is buffered; nothing can be recorded afterwards."""
        self._file.close()
