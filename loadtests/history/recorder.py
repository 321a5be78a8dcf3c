"""
Writes a history: JSON lines, one when a request is sent and one when its outcome is known.

    {"event":"begin","format":1,"clock":"host-a"}
    {"event":"invoke","op":1,"at":12.5,"process":"u1","operation":"transfer","ledger":"main","key":"k1",
     "path":"/v1/transfers","request":"{...}"}
    {"event":"ok","op":1,"at":12.6,"status":201,"replayed":false,"response":"{...}"}     or "fail", or "unknown"
    {"event":"mark","at":30.0,"name":"faults_stopped"}
    {"event":"gauge","at":30.1,"name":"rss_bytes","value":81000000,"growth_max":1.5}

The long lines above are one line each in a file. Every file of a run has a recorder of its own; times are of the
clock that the first line names and are compared only with times of the same clock. books.py writes what the ledger
says in the end.
"""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

FORMAT = 1
OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
# The operation that asks what a key is bound to.
LOOK_UP = "look-up"
# That which reads one transfer with what has become of it.
PROGRESS = "progress"
# Statuses of a request that may be sent again later.
NOT_NOW = (408, 429, 503)
# The marks that the liveness check looks for.
FAULTS_STARTED, FAULTS_STOPPED = "faults_started", "faults_stopped"
# Of a gauge, where nothing else is said: by how much it may exceed what it was before the faults.
GROWTH_MAX = 1.5


class HistoryFullError(Exception):
    """The file has the size it may have; nothing more can be recorded."""


def outcome_of(status: int, response: str) -> str:
    """
    Return what an answer says of its request: `ok`, `fail` (certainly without effect) or `unknown`.

    A problem of the ledger says so itself; of anything else only the status is believed, and 5xx says nothing.
    """
    if 200 <= status < 300 or status == 304:
        return OK
    said = problem_of(response).get("outcome")
    if said in ("not_applied", "refused"):
        return FAIL
    if said is None and 400 <= status < 500:
        return FAIL
    return UNKNOWN


def problem_of(response: str | bytes) -> dict[str, Any]:
    """Return the members of a problem document; none of what is no JSON object."""
    try:
        document = json.loads(response)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


class Heard(NamedTuple):
    """
    The answer to a request, or to an item of a bulk, and what it says of it; status 0 is no answer.

    `retry_after` are the seconds that it asks to wait for.
    """

    status: int
    response: str
    replayed: bool
    outcome: str
    retry_after: int = 0

    @classmethod
    def of(cls, status: int, response: str, replayed: bool = False, retry_after: int = 0) -> Self:
        """Return an answer with what it says; without one, the response says why."""
        return cls(status, response, replayed, outcome_of(status, response) if status else UNKNOWN, retry_after)

    @property
    def settled(self) -> bool:
        """Whether the same request with the same key will never be answered otherwise."""
        return self.outcome == OK or (self.outcome == FAIL and self.status not in NOT_NOW)


class Recorder:
    """
    Appends to one new history file. Needs no lock where one thread uses it, under asyncio and gevent alike.

    `clock`: gives seconds, by default those that all processes of a machine share. `bytes_max`: size at which it
    refuses to go on.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic, bytes_max: float = math.inf) -> None:
        self._file = path.open("x", encoding="utf-8")
        self._clock = clock
        self._bytes_max = bytes_max
        self._bytes = 0
        self.operations = 0
        self.write({"event": "begin", "format": FORMAT, "clock": platform.node()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def invoke(
        self, operation: str, process: str, path: str, *, ledger: str = "", key: str = "", request: str = ""
    ) -> int:
        """
        Note that a request is about to be sent; return its number, which its outcome is noted under.

        It is in the file when this returns: a client that is killed has sent nothing that nobody knows of. Answers that
        it had heard last may be missing, which makes them unknown and not wrong.

        `operation`: `transfer` (also one item of a bulk, and a capture, void or reversal), `read` (one account),
        `look-up` (of a key), `progress` (one transfer and what has become of it), or any other.
        `process`: name of the logical client; what it sends next is what it sends after this. `path`: of the request;
        what a key is bound to are path and request. See `invoke_bulk`. `request`: the body, or of a bulk the item
        without its key.

        Raises:
            HistoryFullError: The file is full.
        """
        if self._bytes > self._bytes_max:
            raise HistoryFullError(f"{self._file.name} has {self._bytes:,} bytes")
        self.operations += 1
        sent = {"operation": operation, "ledger": ledger, "key": key, "path": path, "request": request}
        self._note("invoke", op=self.operations, process=process, **sent)
        self._file.flush()
        return self.operations

    def answered(self, operation: int, heard: Heard) -> Heard:
        """Note the answer to a request, byte for byte, or that there was none: its outcome is unknown for ever then."""
        status, replayed = heard.status, heard.replayed
        self._note(heard.outcome, op=operation, status=status, replayed=replayed, response=heard.response)
        return heard

    def invoke_bulk(
        self, items: Sequence[tuple[str, str]], *, process: str, path: str, atomic: bool, ledger: str = ""
    ) -> list[int]:
        """Note that a bulk is about to be sent: keys and the items without them; return a number for each item."""
        # An atomic set is one request, which its first key names.
        where = f"{path} atomic {items[0][0]} {len(items)}" if atomic else path
        return [
            self.invoke("transfer", process=process, path=where, ledger=ledger, key=key, request=request)
            for key, request in items
        ]

    def answered_bulk(self, operations: Sequence[int], heard: Heard) -> list[Heard]:
        """Note the answer to a bulk; return the answer to each item."""
        if heard.status != 200:
            return [self.answered(operation, heard) for operation in operations]
        answers = []
        for operation, result in zip(operations, json.loads(heard.response)["results"], strict=True):
            said = json.dumps(result.get("transfer") or result.get("problem") or {}, separators=(",", ":"))
            answers.append(self.answered(operation, Heard.of(result["status"], said, result["replayed"])))
        return answers

    def mark(self, name: str) -> None:
        """Note that something begins or ends now: FAULTS_STARTED, FAULTS_STOPPED."""
        self._note("mark", name=name)

    def gauge(self, name: str, value: float, growth_max: float = GROWTH_MAX) -> None:
        """Note a size that must be back, after all faults, to *growth_max* times what it was before the first."""
        self._note("gauge", name=name, value=value, growth_max=growth_max)

    def _note(self, kind: str, **fields: object) -> None:
        self.write({"event": kind, "at": self._clock(), **fields})

    def write(self, event: dict[str, object]) -> None:
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        self._bytes += len(line) + 1
        self._file.write(line + "\n")

    def close(self) -> None:
        """Write what waits; nothing can be noted any more."""
        self._file.close()
