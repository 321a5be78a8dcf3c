"""A ledger in memory whose clients write a true history, which tests then falsify."""

import copy
import functools
import itertools
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from loadtests.history.feed import BROKERS, READERS, TYPES
from loadtests.history.model import MOVING, History, Verdict, read
from loadtests.history.recorder import Heard, Recorder

Event = dict[str, Any]
PATH = "/v1/transfers"
# The fields of an account in the books.
BOOKED = ("id", "currency", "balance", "version", "floor")


class Ledger:
    """
    Posts transfers as the service does: a key is bound to its first request and answer.

    Its clock advances by a second with each request, and with `tick`.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.second = 0
        self.accounts: dict[str, Event] = {}
        self.entries: list[Event] = []
        self.rows: list[Event] = []
        # The types, subjects and data of events, in order.
        self.feed: list[tuple[str, str, Event]] = []
        # The current state of transfers, by id.
        self._now: dict[str, Event] = {}
        self._bound: dict[str, tuple[str, int, str]] = {}
        self._ids = itertools.count(1)

    def open(self, account: str, floor: int | None = 0) -> None:
        """Open an account."""
        shown = dict.fromkeys(("balance", "held_in", "held_out", "available"), 0)
        self.accounts[account] = {"id": account, "currency": "EUR", **shown, "version": 1, "floor": floor}
        self.feed.append(("account.created", account, dict(self.accounts[account])))

    def post(self, key: str, request: str, path: str = PATH) -> tuple[int, str, bool]:
        """Return status, body and whether it is a replay."""
        self.tick()
        if key in self._bound:
            bound, status, body = self._bound[key]
            if bound != path + request:
                return 422, json.dumps({"code": "idempotency_key_reused", "outcome": "not_applied"}), False
            return status, body, True
        asked = json.loads(request)
        status, body = self._pay(key, asked) if path == PATH else self._follow(path, asked)
        if status == 409:
            reference = key if path == PATH else None
            self.feed.append(("transfer.refused", f"{self.name}-refused-{len(self.feed)}", {"reference": reference}))
        self._bound[key] = path + request, status, body
        return status, body, False

    def transfer(self, transfer_id: str) -> Event:
        """Return a transfer in its current state."""
        return self._now[transfer_id]

    def tick(self, seconds: int = 1) -> None:
        """Advance the clock; due holds expire, each at its instant."""
        for _ in range(seconds):
            self.second += 1
            for found in list(self._now.values()):
                hold = found["hold"] or {}
                if hold.get("state") == "open" and hold["expires_at"] <= self._instant():
                    left, pair = hold["remaining"], (found["source"], found["destination"])
                    hold.update(state="expired", remaining=0)
                    self._post("", "expiry", found["id"], pair, left, released=left)

    def _instant(self, later: int = 0) -> str:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.second + later)
        return at.isoformat(timespec="microseconds")[:-6] + "Z"

    def _pay(self, key: str, asked: Event) -> tuple[int, str]:
        source, amount = self.accounts[asked["source"]], asked["amount"]
        if source["floor"] is not None and source["available"] - amount < source["floor"]:
            return _refused("insufficient_funds")
        hold = asked.get("hold", False)
        answer = self._post(key, "hold" if hold else "transfer", "", (asked["source"], asked["destination"]), amount)
        if hold:
            due = self._instant(asked["expires_in"])
            self._now[answer["id"]]["hold"] = {"state": "open", "captured": 0, "remaining": amount, "expires_at": due}
        return 201, json.dumps(answer)

    def _follow(self, path: str, asked: Event) -> tuple[int, str]:
        parent, action = path.split("/")[-2:]
        found = self._now[parent]
        pair = found["source"], found["destination"]
        if action == "reverse":
            left = found["amount"] * (found["kind"] in MOVING) - found["reversed"]
            amount = asked.get("amount") or left
            if not 0 < amount <= left or self.accounts[pair[1]]["available"] < amount:
                return _refused("reversal_exceeds_transfer")
            found["reversed"] += amount
            return 201, json.dumps(self._post("", "reversal", parent, pair[::-1], amount))
        hold = found["hold"]
        if hold["state"] != "open":
            return _refused("hold_not_open")
        left = hold["remaining"]
        amount = asked.get("amount") or left
        if amount > left:
            return _refused("capture_exceeds_hold")
        releases = action == "void" or asked.get("release_rest", True)
        rest = 0 if releases else left - amount
        hold["remaining"] = rest
        hold["captured"] += amount if action == "capture" else 0
        if rest == 0:
            hold["state"] = "voided" if action == "void" else "captured"
        return 201, json.dumps(self._post("", action, parent, pair, amount, released=left - rest))

    def _post(
        self, key: str, kind: str, parent: str, pair: tuple[str, str], amount: int, *, released: int = 0
    ) -> Event:
        """Change both accounts, write the transfer into the books, and return the answer."""
        moved = amount if kind in MOVING else 0
        held = amount if kind == "hold" else -released
        answer: Event = {"id": f"{self.name}-{next(self._ids)}", "kind": kind, "state": "posted", "amount": amount}
        answer |= {"parent": parent or None, "created_at": self._instant()}
        for side, sign, name, other in (("source", -1, *pair), ("destination", 1, *pair[::-1])):
            account = self.accounts[name]
            account["balance"] += sign * moved
            account["held_out" if side == "source" else "held_in"] += held
            account["available"] = account["balance"] - account["held_out"]
            account["version"] += 1
            answer[side] = name
            answer[f"{side}_balance"], answer[f"{side}_version"] = account["balance"], account["version"]
            line = {"ledger": self.name, "account": name, "transfer_id": answer["id"], "key": key}
            line |= {"amount": sign * moved, "counterparty": other}
            if moved:
                self.entries.append({**line, "balance": account["balance"], "version": account["version"]})
        self._now[answer["id"]] = {**answer, "hold": None, "reversed": 0}
        self.feed.append((TYPES[kind], answer["id"], dict(self._now[answer["id"]])))
        if kind != "transfer":
            told = {name: answer[name] for name in ("kind", "source", "destination", "amount", "created_at")}
            self.rows.append({"ledger": self.name, "transfer_id": answer["id"], "key": key, "parent": parent, **told})
        return answer


def _refused(code: str) -> tuple[int, str]:
    return 409, json.dumps({"code": code, "outcome": "refused"})


class Story:
    """Clients of one or more ledgers, one request after the other; each instant is a second after the one before."""

    def __init__(self, *ledgers: Ledger) -> None:
        self.ledgers = ledgers
        self._seconds = itertools.count()
        self._folder = tempfile.TemporaryDirectory(prefix="tallystick-story-")
        self._path = Path(self._folder.name) / "history.jsonl"
        self.recorder = Recorder(self._path, clock=lambda: float(next(self._seconds)))

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
        """Post a transfer; its answer may be lost."""
        self.post(ledger, key, _asked(source, destination, amount), lost=lost, by=by)

    def post(
        self, ledger: Ledger, key: str, asked: Event, path: str = PATH, *, lost: bool = False, by: str = "u1"
    ) -> str:
        """Send a request to a path; return the id of the transfer, or nothing if it was refused."""
        number, request = self._send(ledger, key, asked, by, path)
        status, body, replayed = ledger.post(key, request, path)
        self.recorder.answered(number, Heard.of(0, "reset") if lost else Heard.of(status, body, replayed))
        return str(json.loads(body).get("id", ""))

    def never_arrives(self, ledger: Ledger, key: str, source: str, destination: str, amount: int) -> None:
        """Send a transfer that does not reach the ledger."""
        number, _ = self._send(ledger, key, _asked(source, destination, amount), "u1", PATH)
        self.recorder.answered(number, Heard.of(0, "refused"))

    def _send(self, ledger: Ledger, key: str, asked: Event, by: str, path: str) -> tuple[int, str]:
        request = json.dumps(asked)
        sent = {"process": by, "path": path, "ledger": ledger.name, "key": key, "request": request}
        return self.recorder.invoke("transfer", **sent), request

    def read(self, ledger: Ledger, account: str, by: str = "u1") -> None:
        """Read an account."""
        number = self.recorder.invoke("read", process=by, path=f"/v1/accounts/{account}", ledger=ledger.name)
        self.recorder.answered(number, Heard.of(200, json.dumps(ledger.accounts[account])))

    def progress(self, ledger: Ledger, transfer_id: str) -> None:
        """Read the current state of a transfer."""
        number = self.recorder.invoke("progress", "u1", f"{PATH}/{transfer_id}", ledger=ledger.name)
        self.recorder.answered(number, Heard.of(200, json.dumps(ledger.transfer(transfer_id))))

    def look_up(self, ledger: Ledger, key: str, status: int, response: Event) -> None:
        """Look up what a key is bound to."""
        number = self.recorder.invoke("look-up", "u2", f"/v1/idempotency-keys/{key}", ledger=ledger.name, key=key)
        self.recorder.answered(number, Heard.of(status, json.dumps(response)))

    def wait(self, seconds: int) -> None:
        """Advance all clocks."""
        for _ in range(seconds):
            next(self._seconds)
        for ledger in self.ledgers:
            ledger.tick(seconds)

    def end(self) -> list[Event]:
        """Write the books and return all events of the history."""
        for ledger in self.ledgers:
            for account in ledger.accounts.values():
                booked = {name: account[name] for name in BOOKED}
                self.recorder.write({"event": "account", "ledger": ledger.name, **booked})
            for entry in ledger.entries:
                self.recorder.write({"event": "entry", **entry})
            for row in ledger.rows:
                self.recorder.write({"event": "row", **row})
            for event in told(ledger.name, ledger.feed):
                self.recorder.write(event)
        self.recorder.close()
        events = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        self._folder.cleanup()
        return events


def told(ledger: str, feed: list[tuple[str, str, Event]]) -> list[Event]:
    """Return the events that readers of a feed write down."""
    return [
        {"event": "told", "reader": reader, "ledger": ledger, "position": position}
        | {"type": kind, "subject": subject, "data": json.dumps(data)}
        for position, (kind, subject, data) in enumerate(feed, 1)
        for reader in (*READERS, *BROKERS)
    ]


def _asked(source: str, destination: str, amount: int) -> Event:
    return {"source": source, "destination": destination, "amount": amount}


def history(events: list[Event]) -> History:
    """Return the events as a history for the checks."""
    found = History()
    read(found, (json.dumps(event) + "\n" for event in events), "history")
    return found


def eventful() -> list[Event]:
    """Return a true history in which every check has something to judge."""
    return copy.deepcopy(_eventful())


@functools.cache
def _eventful() -> list[Event]:
    main, other = Ledger("main"), Ledger("other")
    story = Story(main, other)
    for ledger in (main, other):
        ledger.open("world", floor=None)
        ledger.open("a")
        ledger.open("b")
        story.pay(ledger, "fill", "world", "a", 100)
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
    story.look_up(main, "k5", 200, {"id": "main-4", "state": "posted"})
    story.read(main, "a", by="u2")
    story.read(main, "a", by="u2")
    _hold(story, main)
    return story.end()


def _hold(story: Story, ledger: Ledger) -> None:
    """Hold money on a separate account; capture holds in parts and reverse that, void one, and let one expire."""
    ledger.open("c")
    ledger.open("d")
    story.pay(ledger, "fill-c", "world", "c", 100)
    taken = story.post(ledger, "h1", {**_asked("c", "d", 20), "hold": True, "expires_in": 60})
    story.read(ledger, "c")
    capture = story.post(ledger, "c1", {"amount": 5, "release_rest": False}, f"{PATH}/{taken}/capture")
    story.progress(ledger, taken)
    story.post(ledger, "c2", {}, f"{PATH}/{taken}/capture")
    story.post(ledger, "r1", {"amount": 2}, f"{PATH}/{capture}/reverse")
    story.progress(ledger, capture)
    given_up = story.post(ledger, "h2", {**_asked("c", "d", 7), "hold": True, "expires_in": 60})
    story.post(ledger, "v1", {}, f"{PATH}/{given_up}/void")
    story.progress(ledger, given_up)
    forgotten = story.post(ledger, "h3", {**_asked("c", "d", 3), "hold": True, "expires_in": 4})
    story.post(ledger, "c3", {"amount": 1, "release_rest": False}, f"{PATH}/{forgotten}/capture")
    story.wait(4)
    story.post(ledger, "c4", {}, f"{PATH}/{forgotten}/capture")
    story.pay(ledger, "p1", "c", "d", 1)
    story.progress(ledger, forgotten)
    story.read(ledger, "c")


def flagged(verdict: Verdict) -> set[str]:
    """Return the checks that have violations."""
    return {violation.check for violation in verdict.violations}
