"""The service against the model: whatever is asked in whatever order, both answer the same and hold the same."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import orjson
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model import strategies as draw
from tests.model.ledger_model import Attempt, Item, Ledger, Order, Outcome, Posted
from tests.model.ledger_requests import Link, Sent, body_of, bulk_body, item_body
from tests.support.service import ServerProcess, Service, make_key

# The seed is fixed; what failed is found again by running again, so nothing is kept between runs.
SETTINGS = settings(
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    # A step is several requests: slower than what hypothesis expects of data that only lives in memory.
    suppress_health_check=[HealthCheck.too_slow],
)


class LedgerMachine(RuleBasedStateMachine):
    """Requests to the service, each also put to the model."""

    # Set by the tests: opens a link to an empty ledger.
    connect: ClassVar[Callable[[], Link]]

    def __init__(self) -> None:
        super().__init__()
        self.link = type(self).connect()
        self.model = Ledger()
        self.numbers = itertools.count(1)
        # Every posting request sent, to be sent again; and the first answer of each key, byte for byte.
        self.sent: list[Sent] = []
        self.answers: dict[str, bytes] = {}

    @initialize(floor=draw.floors, ceiling=draw.ceilings)
    def begin(self, floor: int | None, ceiling: int | None) -> None:
        """Some accounts are there from the start, two of them with money."""
        for name in draw.STARTED:
            self.open_account(name, "EUR", *{"world": (None, None), "c": (floor, ceiling)}.get(name, (0, None)))
        self.transfer(Order("world", "a", 100, "EUR"))
        self.transfer(Order("world", "b", 100, "EUR"))

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

    @rule(order=draw.orders)
    def transfer(self, order: Order) -> None:
        """Post under a key that is new."""
        self.post(Sent.single(f"key-{next(self.numbers)}", order))

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
        self.post(Sent(pairs if atomic is not None else pairs[:1], atomic), spelled_out=True)

    @precondition(lambda self: self.model.keys)
    @rule(data=st.data(), order=draw.orders)
    def reuse(self, data: st.DataObject, order: Order) -> None:
        """Send another request under a key that is bound."""
        self.post(Sent.single(data.draw(st.sampled_from(sorted(self.model.keys))), order))

    @rule(data=st.data(), orders=st.lists(draw.orders, min_size=1, max_size=5), atomic=st.booleans())
    def bulk(self, data: st.DataObject, orders: list[Order], atomic: bool) -> None:
        """Post several at once, under keys that are new, bound, or twice in the bulk; some items came before."""
        fresh = [f"key-{next(self.numbers)}" for _ in orders]
        keys = st.sampled_from([*fresh, *sorted(self.model.keys)])
        pairs = [
            (data.draw(keys) if data.draw(st.integers(0, 5)) == 3 else key, order)
            for key, order in zip(fresh, orders, strict=True)
        ]
        again = st.lists(st.sampled_from([*pairs, *self.earlier_items()]), max_size=2)
        if data.draw(st.integers(0, 3)) == 2:
            pairs += data.draw(again)
        self.post(Sent.bulk(pairs, atomic=atomic))

    @precondition(lambda self: self.earlier_items())
    @rule(data=st.data(), order=draw.orders, swap=st.booleans())
    def contend(self, data: st.DataObject, order: Order, swap: bool) -> None:
        """Send an earlier item again, beside another request under its key."""
        item = data.draw(st.sampled_from(self.earlier_items()))
        pairs = [(item[0], order), item]
        self.post(Sent.bulk(pairs[::-1] if swap else pairs, atomic=False))

    def earlier_items(self) -> list[tuple[str, Order]]:
        """Return the items that were sent in bulks, each for itself."""
        return [pair for sent in self.sent if sent.atomic is False for pair in sent.pairs]

    @rule(name=draw.names)
    def read_account(self, name: str) -> None:
        """Read an account, and its statement from the last line to the first."""
        account = self.model.accounts.get(name)
        answer = self.link.send("GET", f"/v1/accounts/{name}")
        if account is None:
            assert (answer.status, answer.code) == (404, "account_not_found")
            assert self.link.send("GET", f"/v1/accounts/{name}/entries").code == "account_not_found"
            return
        assert answer.headers["ETag"] == f'"{account.version}"'
        lines = self.link.pages(f"/v1/accounts/{name}/entries", 3)
        shown = [(line["amount"], line["counterparty"], line["balance"], line["version"]) for line in lines]
        assert shown == list(reversed(account.entries))
        assert sum(line["amount"] for line in lines) == account.balance == answer.json["balance"]

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
        check_transfer(answer.json, attempt)
        by_id = self.link.send("GET", f"/v1/transfers/{answer.json['id']}")
        assert by_id.body == answer.body

    @rule()
    def list_transfers(self) -> None:
        """The list of transfers holds every one that was posted, once."""
        listed = {row["id"]: row for row in self.link.pages("/v1/transfers", 7)}
        posted = [attempt for attempt in self.model.keys.values() if isinstance(attempt.result, Posted)]
        assert len(listed) == len(posted)
        assert sum(row["amount"] for row in listed.values()) == sum(attempt.order.amount for attempt in posted)

    @invariant()
    def books_agree(self) -> None:
        """Every account is as the model has it, and each currency adds up to zero."""
        rows = self.link.pages("/v1/accounts", 100)
        members = ("currency", "floor", "ceiling", "balance", "version", "closed")
        assert {row["id"]: [row[m] for m in members] for row in rows} == {
            name: [getattr(account, m) for m in members] for name, account in self.model.accounts.items()
        }
        for currency in ("EUR", "USD"):
            assert sum(row["balance"] for row in rows if row["currency"] == currency) == 0

    def teardown(self) -> None:
        """Read all statements once more, and hang up."""
        for name in self.model.accounts:
            self.read_account(name)
        self.link.close()

    def post(self, sent: Sent, *, spelled_out: bool = False) -> None:
        """Send a request and hold its answer against the model's, and against the first answers of its keys."""
        self.sent.append(sent)
        if sent.atomic is None:
            (pair,) = sent.pairs
            body = item_body(None, pair[1], spelled_out=spelled_out)
            expected = [self.model.post(Item(*pair))]
            answer = self.link.send("POST", "/v1/transfers", body, {"Idempotency-Key": pair[0]})
            self.check(pair[0], expected[0], answer.status, answer.replayed, body=answer.body)
            return
        items, body = bulk_body(sent.pairs, atomic=sent.atomic, spelled_out=spelled_out)
        expected = self.model.post_bulk(items, atomic=sent.atomic)
        answer = self.link.send("POST", "/v1/transfers/bulk", body)
        assert answer.status == 200
        assert len(answer.json["results"]) == len(expected)
        for item, outcome, result in zip(items, expected, answer.json["results"], strict=True):
            document = result["transfer"] if "transfer" in result else result["problem"]
            self.check(item.key, outcome, result["status"], result["replayed"], body=body_of(document))

    def check(self, key: str, expected: Outcome, status: int, replayed: bool, *, body: bytes) -> None:
        """Compare one answer with the model's."""
        document = orjson.loads(body)
        assert (status, document.get("code"), replayed) == (expected.status, expected.code, expected.replayed), document
        assert tuple(document.get("fields", ())) == expected.differs
        if expected.attempt is None or status == 422:
            return
        if status == 201:
            check_transfer(document, expected.attempt)
        else:
            assert document.get("pointer") == getattr(expected.attempt.result, "pointer", None)
            assert (document["outcome"], document["retry"]) == ("refused", "new_key")
        assert self.answers.setdefault(key, body) == body


def check_transfer(document: dict[str, Any], attempt: Attempt) -> None:
    """Compare a transfer with the attempt it is the record of."""
    order, result = attempt.order, attempt.result
    for member in ("source", "destination", "amount", "currency", "reference"):
        assert document[member] == getattr(order, member)
    posted = isinstance(result, Posted)
    assert document["state"] == ("posted" if posted else "refused")
    for member in Posted._fields:
        assert document[member] == (getattr(result, member) if posted else None)


async def run(machine: type[LedgerMachine], limits: settings) -> None:
    """Run a machine beside the loop: its calls are blocking, the service's are not."""
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=limits)


@pytest.mark.timeout(240)
async def test_the_service_does_what_the_model_does(service: Service, ledger: str) -> None:
    """In every sequence of requests that was tried, service and model give the same answers and hold the same books."""
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)

    class Machine(LedgerMachine):
        @staticmethod
        def connect() -> Link:
            token = make_key(service.database_url, f"{ledger}-{next(numbers)}")
            return Link(service.url, asyncio.run_coroutine_threadsafe(token, loop).result())

    await run(Machine, SETTINGS)


@pytest.mark.timeout(240)
async def test_the_service_does_so_though_it_is_killed(server_process: ServerProcess, ledger: str) -> None:
    """The same holds when the server is killed and started again between any two requests."""
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)
    await server_process.start()

    class Machine(LedgerMachine):
        kills = 0

        @staticmethod
        def connect() -> Link:
            token = make_key(server_process.database_url, f"{ledger}-{next(numbers)}")
            return Link(server_process.url, asyncio.run_coroutine_threadsafe(token, loop).result())

        @precondition(lambda self: self.model.keys and not self.kills)
        @rule()
        def kill(self) -> None:
            """End the server without warning, and start another."""
            self.kills += 1
            asyncio.run_coroutine_threadsafe(restart(), loop).result()
            self.link.close()

    async def restart() -> None:
        pids.add(server_process.pid)
        server_process.kill()
        await server_process.wait()
        await server_process.start()

    pids: set[int] = set()
    await run(Machine, settings(SETTINGS, max_examples=12))
    assert len(pids) >= 6
