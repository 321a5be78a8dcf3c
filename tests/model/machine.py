"""The state machine: requests to the service, in any order and at any time, each also put to the model."""

import itertools
from typing import Any, ClassVar, Protocol

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model import strategies as draw
from tests.model.ledger_model import Attempt, Ledger, Outcome, Posted
from tests.model.ledger_orders import Asked, Follow, Item, Order, early
from tests.model.ledger_requests import NO_ID, Link, Requests, Sent, body_of, instant_of

SIDES = ("source_balance", "destination_balance", "source_version", "destination_version")


class World(Protocol):
    """What a machine needs besides HTTP."""

    def connect(self) -> Link:
        """Open a link to an empty ledger, which is the machine's from here on."""

    def advance(self, seconds: int) -> None:
        """Let the books' clock jump."""

    def sweep(self, link: Link) -> None:
        """Post the expiries that are due in the ledger of a link."""


class LedgerMachine(RuleBasedStateMachine):
    """Requests to the service, each also put to the model."""

    # Set by the tests.
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.link = self.world.connect()
        self.model = Ledger()
        self.numbers = itertools.count(1)
        # Of the accounts that are read alone.
        self.turns = itertools.count()
        # Every posting request sent, to be sent again; and the first answer of each key, byte for byte.
        self.sent: list[Sent] = []
        self.answers: dict[str, bytes] = {}
        # The id that each key is bound to.
        self.ids: dict[str, str] = {}
        self.requests = Requests(self.ids)

    @initialize(floor=draw.floors, ceiling=draw.ceilings)
    def begin(self, floor: int | None, ceiling: int | None) -> None:
        """Some accounts are there from the start, two of them with money."""
        for name in draw.STARTED:
            self.open_account(name, "EUR", *{"world": (None, None), "c": (floor, ceiling)}.get(name, (0, None)))
        self.transfer(Order("world", "a", 100, "EUR"), preview=False)
        self.transfer(Order("world", "b", 100, "EUR"), preview=False)

    @rule(name=draw.opened, currency=draw.currencies, floor=draw.floors, ceiling=draw.ceilings)
    def open_account(self, name: str, currency: str, floor: int | None, ceiling: int | None) -> None:
        """Open an account, for the first time, again, or differently."""
        expected = self.model.open(name, currency, floor, ceiling)
        body = {"id": name, "currency": currency, "floor": floor, "ceiling": ceiling}
        answer = self.link.send("POST", "/v1/accounts", body_of(body))
        assert (answer.status, answer.code, answer.replayed) == (expected.status, expected.code, expected.replayed)
        assert tuple(answer.json.get("fields", ())) == expected.differs

    @rule(name=draw.names, changes=draw.changes, version=st.one_of(st.none(), st.none(), st.integers(0, 4)))
    def patch(self, name: str, changes: dict[str, Any], version: int | None) -> None:
        """Change an account, with or without If-Match; 0 stands for the version it has."""
        if version == 0 and name in self.model.accounts:
            version = self.model.accounts[name].version
        expected = self.model.patch(name, changes, version)
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        answer = self.link.send("PATCH", f"/v1/accounts/{name}", body_of(changes), headers)
        assert (answer.status, answer.code) == (expected.status, expected.code)

    @rule(order=draw.orders, preview=st.booleans())
    def transfer(self, order: Order, preview: bool) -> None:
        """Post a transfer or a hold under a key that is new, and ask first what would be said."""
        if preview:
            self.preview(order)
        self.post(Sent.single(self.new_key(), order))

    @rule(order=draw.holds)
    def hold(self, order: Order) -> None:
        """Reserve money."""
        self.post(Sent.single(self.new_key(), order))

    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """Capture, void or reverse anything that has a key."""
        follow = data.draw(draw.follows(sorted(self.model.keys)))
        self.post(Sent.single(self.new_key(), follow))

    @precondition(lambda self: self.open_holds())
    @rule(data=st.data(), times=st.integers(1, 3))
    def follow_hold(self, data: st.DataObject, times: int) -> None:
        """Capture or void what is an open hold, or was one a request ago."""
        holds = self.open_holds()
        for _ in range(times):
            self.post(Sent.single(self.new_key(), data.draw(draw.follows(holds, kinds=draw.OF_HOLDS))))

    @precondition(lambda self: self.moved())
    @rule(data=st.data(), times=st.integers(1, 3))
    def reverse(self, data: st.DataObject, times: int) -> None:
        """Reverse what has moved money."""
        moved = self.moved()
        for _ in range(times):
            self.post(Sent.single(self.new_key(), data.draw(draw.follows(moved, kinds=("reversal",)))))

    @rule(seconds=draw.jumps)
    def wait(self, seconds: int) -> None:
        """Let time pass: holds end."""
        self.model.advance(seconds)
        self.world.advance(seconds)

    @rule()
    def sweep(self) -> None:
        """Post the expiries that are due; nothing that is answered changes by it."""
        self.world.sweep(self.link)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Send any earlier request again."""
        self.post(data.draw(st.sampled_from(self.sent)))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), atomic=st.sampled_from([None, False, True]))
    def retry_otherwise(self, data: st.DataObject, atomic: bool | None) -> None:
        """Send what was sent before alone, in a bulk, or in a set, and in other bytes."""
        pairs = data.draw(st.sampled_from(self.sent)).pairs
        first = pairs[0][1]
        if atomic is None and isinstance(first, Follow) and first.by_key:
            # Alone a parent is named by its id only.
            atomic = False
        self.post(Sent(pairs if atomic is not None else pairs[:1], atomic), spelled_out=True)

    @precondition(lambda self: self.model.keys)
    @rule(data=st.data(), order=draw.orders)
    def reuse(self, data: st.DataObject, order: Order) -> None:
        """Send another request under a key that is bound."""
        keys = sorted(self.model.keys)
        asked = data.draw(st.one_of(st.just(order), draw.follows(keys)))
        self.post(Sent.single(data.draw(st.sampled_from(keys)), asked))

    @rule(data=st.data(), orders=st.lists(draw.orders | draw.holds, min_size=1, max_size=5), atomic=st.booleans())
    def bulk(self, data: st.DataObject, orders: list[Order], atomic: bool) -> None:
        """Post several at once, under keys that are new, bound, or twice in the bulk; some follow items before them."""
        fresh = [self.new_key() for _ in orders]
        keys = st.sampled_from([*fresh, *sorted(self.model.keys)])
        pairs: list[tuple[str, Asked]] = [
            (data.draw(keys) if data.draw(st.integers(0, 5)) == 3 else key, order)
            for key, order in zip(fresh, orders, strict=True)
        ]
        for _ in range(data.draw(st.integers(0, 3))):
            parents = [key for key, _ in pairs] if data.draw(st.booleans()) else sorted(self.model.keys)
            follow = data.draw(draw.follows(parents, in_bulk=True))
            # An item of this bulk has no id yet.
            pairs.append((self.new_key(), follow._replace(by_key=follow.by_key or follow.parent not in self.ids)))
        again = st.lists(st.sampled_from([*pairs, *self.earlier_items()]), max_size=2)
        if data.draw(st.integers(0, 3)) == 2:
            pairs += data.draw(again)
        self.post(Sent.bulk(pairs, atomic=atomic))

    @precondition(lambda self: self.earlier_items())
    @rule(data=st.data(), order=draw.orders, swap=st.booleans())
    def contend(self, data: st.DataObject, order: Order, swap: bool) -> None:
        """Send an earlier item again, beside another request under its key."""
        item = data.draw(st.sampled_from(self.earlier_items()))
        pairs: list[tuple[str, Asked]] = [(item[0], order), item]
        self.post(Sent.bulk(pairs[::-1] if swap else pairs, atomic=False))

    @rule(name=draw.names)
    def read_account(self, name: str) -> None:
        """Read an account, its statement from the last line to the first, and what it says today of earlier days."""
        account = self.model.accounts.get(name)
        path = f"/v1/accounts/{name}"
        answer = self.link.send("GET", path)
        if account is None:
            assert (answer.status, answer.code) == (404, "account_not_found")
            assert self.link.send("GET", f"{path}/entries").code == "account_not_found"
            return
        assert answer.headers["ETag"] == f'"{account.version}"'
        unchanged = self.link.send("GET", path, headers={"If-None-Match": f'"{account.version}"'})
        assert unchanged.status == 304
        lines = self.link.pages(f"{path}/entries", 3)
        members = ("kind", "amount", "counterparty", "balance", "version")
        assert [[line[m] for m in members] for line in lines] == [list(e[:5]) for e in reversed(account.entries)]
        assert sum(line["amount"] for line in lines) == account.balance == answer.json["balance"]
        for date in draw.VALUE_DATES:
            query = f"at={instant_of(date).replace('+', '%2B')}&by=effective"
            past = self.link.send("GET", f"{path}/balance?{query}")
            assert past.json["balance"] == account.effective_balance(date)

    @rule(number=st.integers(1, 30))
    def look_up(self, number: int) -> None:
        """Ask what a key is bound to."""
        key = f"key-{number}"
        attempt = self.model.keys.get(key)
        answer = self.link.send("GET", f"/v1/idempotency-keys/{key}")
        if attempt is None:
            assert (answer.status, answer.code) == (404, "idempotency_key_not_found")
            return
        assert answer.status == 200
        self.check_transfer(answer.json, attempt)
        self.check_progress(key, answer.json)
        by_id = self.link.send("GET", f"/v1/transfers/{answer.json['id']}")
        assert by_id.body == answer.body

    @rule()
    def list_transfers(self) -> None:
        """The list of transfers holds every one that was posted, once; expiries as far as they have been posted."""
        rows = self.link.pages("/v1/transfers", 7)
        listed = {row["id"]: row for row in rows if row["kind"] != "expiry"}
        posted = [attempt.result for attempt in self.model.keys.values() if isinstance(attempt.result, Posted)]
        assert len({row["id"] for row in rows}) == len(rows)
        assert sorted((r["kind"], r["amount"]) for r in listed.values()) == sorted((p.kind, p.amount) for p in posted)
        states = [p.state for p in self.model.progress.values()]
        assert len(rows) - len(listed) <= states.count("expired")

    @invariant()
    def books_agree(self) -> None:
        """Every account is as the model has it, one by turns read alone, and each currency adds up to zero."""
        rows = self.link.pages("/v1/accounts", 100)
        members = ("currency", "floor", "ceiling", "balance", "held_in", "held_out", "available", "version", "closed")
        assert {row["id"]: [row[m] for m in members] for row in rows} == {
            name: [getattr(account, m) for m in members] for name, account in self.model.accounts.items()
        }
        row = rows[next(self.turns) % len(rows)]
        assert self.link.send("GET", f"/v1/accounts/{row['id']}").json == row
        for currency in ("EUR", "USD"):
            assert sum(row["balance"] for row in rows if row["currency"] == currency) == 0
            assert sum(row["held_in"] - row["held_out"] for row in rows if row["currency"] == currency) == 0

    def teardown(self) -> None:
        """Read all statements and the progress of all holds once more, and hang up."""
        for name in self.model.accounts:
            self.read_account(name)
        for key in self.holds():
            self.check_progress(key, self.link.send("GET", f"/v1/transfers/{self.ids[key]}").json)
        self.link.close()

    def new_key(self) -> str:
        """Return a key that was not used."""
        return f"key-{next(self.numbers)}"

    def holds(self) -> list[str]:
        """Return the keys of all holds."""
        return [key for key, progress in self.model.progress.items() if progress.state]

    def open_holds(self) -> list[str]:
        """Return the keys of the holds that are open."""
        return [key for key, progress in self.model.progress.items() if progress.state == "open"]

    def moved(self) -> list[str]:
        """Return the keys of what has moved money, and can be reversed as far as it was not."""
        results = [(key, attempt.result) for key, attempt in self.model.keys.items()]
        return [key for key, row in results if isinstance(row, Posted) and row.kind in ("transfer", "capture")]

    def earlier_items(self) -> list[tuple[str, Asked]]:
        """Return the items that were sent in bulks, each for itself."""
        return [pair for sent in self.sent if sent.atomic is False for pair in sent.pairs]

    def preview(self, asked: Order) -> None:
        """Ask what a request would be answered, under a key that is bound to nothing."""
        expected = self.model.preview(Item("preview", asked))
        answer = self.link.send("POST", "/v1/transfers/preview", self.requests.single(asked))
        if expected.status == 400:
            problem = answer.json if answer.status == 400 else answer.json["problem"]
            assert (problem["status"], problem["code"]) == (400, "invalid_request")
            return
        assert (answer.status, answer.json["status"]) == (200, expected.status)
        assert expected.attempt is not None
        if expected.status == 201:
            self.check_transfer(answer.json["transfer"], expected.attempt)
        else:
            problem = answer.json["problem"]
            assert (problem["code"], problem.get("pointer")) == expected.attempt.result

    def post(self, sent: Sent, *, spelled_out: bool = False) -> None:
        """Send a request and hold its answer against the model's, and against the first answers of its keys."""
        if self.leaves_open(sent):
            return
        self.sent.append(sent)
        for _, asked in sent.pairs:
            self.learn_parent(asked)
        if sent.atomic is None:
            (pair,) = sent.pairs
            body = self.requests.single(pair[1], spelled_out=spelled_out)
            expected = [self.model.post(Item(*pair))]
            answer = self.link.send("POST", self.requests.path(pair[1]), body, {"Idempotency-Key": pair[0]})
            self.check(pair[0], expected[0], answer.status, answer.replayed, body=answer.body)
            return
        items, body = self.requests.bulk(sent.pairs, atomic=sent.atomic, spelled_out=spelled_out)
        expected = self.model.post_bulk(items, atomic=sent.atomic)
        answer = self.link.send("POST", "/v1/transfers/bulk", body)
        assert answer.status == 200
        assert len(answer.json["results"]) == len(expected)
        for item, outcome, result in zip(items, expected, answer.json["results"], strict=True):
            document = result["transfer"] if "transfer" in result else result["problem"]
            self.check(item.key, outcome, result["status"], result["replayed"], body=body_of(document))

    def leaves_open(self, sent: Sent) -> bool:
        """Whether an item repeats the key of one that is early: what it is told is not promised."""
        keys = [key for key, _ in sent.pairs]
        return any(early(asked, self.model.now) and keys.count(key) > 1 for key, asked in sent.pairs)

    def learn_parent(self, asked: Asked) -> None:
        """Find out the id of a parent: of what was refused the first answer does not tell it."""
        if isinstance(asked, Follow) and not asked.by_key and asked.parent in self.model.keys:
            if asked.parent not in self.ids:
                self.ids[asked.parent] = self.link.send("GET", f"/v1/idempotency-keys/{asked.parent}").json["id"]
            assert self.ids[asked.parent] != NO_ID

    def check(self, key: str, expected: Outcome, status: int, replayed: bool, *, body: bytes) -> None:
        """Compare one answer with the model's."""
        document = orjson.loads(body)
        assert (status, document.get("code"), replayed) == (expected.status, expected.code, expected.replayed), document
        if expected.differs is None:
            assert document["fields"]
        else:
            assert set(document.get("fields", ())) == set(expected.differs)
        if expected.attempt is None or status == 422:
            return
        if status == 201:
            self.ids[key] = document["id"]
            self.check_transfer(document, expected.attempt)
        else:
            assert document.get("pointer") == getattr(expected.attempt.result, "pointer", None)
            assert (document["outcome"], document["retry"]) == ("refused", "new_key")
        assert self.answers.setdefault(key, body) == body

    def check_transfer(self, document: dict[str, Any], attempt: Attempt) -> None:
        """Compare a transfer with the attempt it is the record of."""
        asked, result = attempt.asked, attempt.result
        posted = isinstance(result, Posted)
        assert document["state"] == ("posted" if posted else "refused")
        source = result if posted else asked
        if posted or isinstance(asked, Order):
            for member in ("source", "destination", "amount", "currency"):
                assert document[member] == getattr(source, member), member
        for member in SIDES:
            assert document[member] == (getattr(result, member) if posted else None), member
        if isinstance(asked, Order):
            assert document["reference"] == asked.reference
            assert document["parent"] is None
        elif asked.parent in self.ids and posted:
            assert document["parent"] == self.ids[asked.parent]
        if isinstance(result, Posted):
            assert document["kind"] == result.kind
            date = None if result.effective_at is None else instant_of(result.effective_at)
            expected = document["created_at"] if date is None else date.replace("+00:00", ".000000Z")
            assert document["effective_at"] == expected

    def check_progress(self, key: str, document: dict[str, Any]) -> None:
        """Compare what has become of a transfer with what the model knows of it."""
        progress = self.model.progress.get(key)
        assert document["reversed"] == (0 if progress is None else progress.reversed)
        if progress is None or progress.state is None:
            assert document["hold"] is None
            return
        shown = {name: document["hold"][name] for name in ("state", "captured", "remaining")}
        assert shown == {"state": progress.state, "captured": progress.captured, "remaining": progress.remaining}
