"""A ledger in memory whose clients write a history; tests falsify what it wrote."""

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from loadtests.history.model import History, parse
from loadtests.history.recorder import Recorder

Event = dict[str, Any]
PATH = "/v1/transfers"


class Ledger:
    """Posts transfers as the service does: a key is bound for ever to its first request and answer."""

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.accounts: dict[str, Event] = {}
        self.entries: list[Event] = []
        self._bound: dict[str, tuple[str, int, str]] = {}
        self._ids = itertools.count(1)

    def open(self, account: str, floor: int | None = 0) -> None:
        """Open an account."""
        self.accounts[account] = {"id": account, "currency": "EUR", "balance": 0, "version": 1, "floor": floor}

    def post(self, key: str, request: str) -> tuple[int, str, bool]:
        """Return status, body and whether it is a replay."""
        if key in self._bound:
            bound, status, body = self._bound[key]
            if bound != request:
                return 422, json.dumps({"code": "idempotency_key_reused", "outcome": "not_applied"}), False
            return status, body, True
        status, body = self._decide(key, json.loads(request))
        self._bound[key] = request, status, body
        return status, body, False

    def _decide(self, key: str, asked: Event) -> tuple[int, str]:
        source, destination = self.accounts[asked["source"]], self.accounts[asked["destination"]]
        if source["floor"] is not None and source["balance"] - asked["amount"] < source["floor"]:
            return 409, json.dumps({"code": "insufficient_funds", "outcome": "refused"})
        transfer_id = f"{self.name}-{next(self._ids)}"
        answer = {"id": transfer_id, **asked}
        for side, account, other, amount in (
            ("source", source, destination, -asked["amount"]),
            ("destination", destination, source, asked["amount"]),
        ):
            account["balance"] += amount
            account["version"] += 1
            answer[f"{side}_balance"], answer[f"{side}_version"] = account["balance"], account["version"]
            self.entries.append(
                {
                    "ledger": self.name,
                    "account": account["id"],
                    "transfer_id": transfer_id,
                    "key": key,
                    "amount": amount,
                    "counterparty": other["id"],
                    "balance": account["balance"],
                    "version": account["version"],
                }
            )
        return 201, json.dumps(answer)


class Story:
    """Clients of one or more ledgers, one request after the other; every instant is a second after the last."""

    def __init__(self, *ledgers: Ledger) -> None:
        self.ledgers = ledgers
        self._seconds = itertools.count()
        self._folder = tempfile.TemporaryDirectory(prefix="tallystick-story-")
        self._path = Path(self._folder.name) / "history.jsonl"
        self.recorder = Recorder(self._path, clock=lambda: float(next(self._seconds)), clock_name="one")

    def pay(
        self,
        ledger: Ledger,
        key: str,
        source: str,
        destination: str,
        amount: int,
        *,
        lost: bool = False,
        by: str = "u1",
    ) -> None:
        """Post a transfer; its answer may get lost."""
        number, request = self._send(ledger, key, (source, destination, amount), by)
        status, body, replayed = ledger.post(key, request)
        if lost:
            self.recorder.lost(number, "reset")
        else:
            self.recorder.answered(number, status, body, replayed=replayed)

    def never_arrives(self, ledger: Ledger, key: str, source: str, destination: str, amount: int) -> None:
        """Send a transfer that does not get there."""
        number, _ = self._send(ledger, key, (source, destination, amount), "u1")
        self.recorder.lost(number, "refused")

    def _send(self, ledger: Ledger, key: str, payment: tuple[str, str, int], by: str) -> tuple[int, str]:
        request = json.dumps(dict(zip(("source", "destination", "amount"), payment, strict=True)))
        sent = {"process": by, "path": PATH, "ledger": ledger.name, "key": key, "request": request}
        return self.recorder.invoke("transfer", **sent), request

    def read(self, ledger: Ledger, account: str, by: str = "u1") -> None:
        """Read an account."""
        number = self.recorder.invoke("read", process=by, path=f"/v1/accounts/{account}", ledger=ledger.name)
        self.recorder.answered(number, 200, json.dumps(ledger.accounts[account]))

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds):
            next(self._seconds)

    def end(self) -> list[Event]:
        """Write the books and return all events."""
        for ledger in self.ledgers:
            for account in ledger.accounts.values():
                self.recorder.write({"event": "account", "ledger": ledger.name, **account})
            for entry in ledger.entries:
                self.recorder.write({"event": "entry", **entry})
        self.recorder.close()
        events = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        self._folder.cleanup()
        return events


def history(events: list[Event]) -> History:
    """Return events as the checks see them."""
    return parse(json.dumps(event) + "\n" for event in events)


def eventful() -> list[Event]:
    """Return a true history in which every check has something to judge."""
    main, other = Ledger("main"), Ledger("other")
    story = Story(main, other)
    for ledger in (main, other):
        ledger.open("world", floor=None)
        ledger.open("a")
        ledger.open("b")
        story.pay(ledger, "fill", "world", "a", 100)
    story.recorder.gauge("rss_bytes", 1000.0)
    story.recorder.mark("faults_started")
    story.pay(main, "k1", "a", "b", 30)
    story.pay(main, "k1", "a", "b", 30, by="u2")
    story.read(main, "a")
    story.pay(main, "k2", "b", "a", 500)
    story.pay(main, "k2", "b", "a", 500)
    story.pay(main, "k3", "a", "b", 10, lost=True)
    story.never_arrives(main, "k4", "a", "b", 1)
    story.pay(main, "k1", "a", "b", 31)
    story.read(main, "b")
    story.read(main, "a")
    story.recorder.mark("faults_stopped")
    story.wait(12)
    story.pay(main, "k5", "a", "b", 5)
    story.read(main, "a", by="u2")
    story.read(main, "a", by="u2")
    story.recorder.gauge("rss_bytes", 1200.0)
    return story.end()
