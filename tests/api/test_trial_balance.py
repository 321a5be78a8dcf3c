"""The trial balance: sums over all accounts by currency, by prefix and at an instant, without delaying other work."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from server.ledger import trial_balance
from server.store import reports
from server.store.reports import Reports
from tests.api.test_statements import shifted
from tests.support.client import Answer, Client
from tests.support.locks import inserts_held, somebody_waits
from tests.support.postgres import administer
from tests.support.service import Service
from tests.support.waiting import until


async def trial(client: Client, **query: str) -> Any:
    """Return the sums of a trial balance, which must succeed."""
    answer = await ask(client, **query)
    assert answer.status == 200, answer
    # Not with orjson, which rounds numbers beyond 64 bits.
    body = json.loads(answer.body)
    assert list(body) == ["prefix", "at", "data"]
    assert [row["net"] for row in body["data"]] == [row["credit"] - row["debit"] for row in body["data"]]
    return [(row["currency"], row["debit"], row["credit"], row["accounts"]) for row in body["data"]]


async def ask(client: Client, **query: str) -> Answer:
    """Ask for a trial balance."""
    return await client.get("/v1/balances" + (f"?{urlencode(query)}" if query else ""))


@pytest.fixture
async def books(client: Client) -> Client:
    """Two currencies, customers with positive and negative balances, and accounts without transfers."""
    await client.open("world", floor=None)
    await client.open("world-usd", "USD", floor=None)
    for name in ("customer:1", "customer:2", "customer:3"):
        await client.open(name, floor=None)
    await client.open("customer:4", "USD")
    await client.open("zebra", "XAU")
    await client.transfer("world", "customer:1", 100)
    await client.transfer("customer:2", "customer:3", 30)
    await client.transfer("customer:1", "customer:3", 25)
    answer = await client.transfer("world-usd", "customer:4", 7, currency="USD")
    assert answer.status == 201, answer
    return client


@pytest.fixture
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else posts during these tests, so a trial balance need not wait for postings that are not committed."""
    monkeypatch.setattr(trial_balance, "SETTLED", timedelta(0))


async def test_the_whole_ledger_nets_to_zero(books: Client) -> None:
    """Debit is the sum of negative balances, credit that of positive ones; they are equal in each currency."""
    answer = await ask(books)
    assert answer.json == {
        "prefix": None,
        "at": None,
        "data": [
            {"currency": "EUR", "debit": 130, "credit": 130, "net": 0, "accounts": 4},
            {"currency": "USD", "debit": 7, "credit": 7, "net": 0, "accounts": 2},
            {"currency": "XAU", "debit": 0, "credit": 0, "net": 0, "accounts": 1},
        ],
    }


async def test_a_prefix_is_a_part_of_it(books: Client) -> None:
    """Only accounts whose ids start with the prefix are summed, case-sensitively; a whole id is a prefix too."""
    assert await trial(books, prefix="customer:") == [("EUR", 30, 130, 3), ("USD", 0, 7, 1)]
    assert await trial(books, prefix="customer:3") == [("EUR", 0, 55, 1)]
    assert await trial(books, prefix="world") == [("EUR", 100, 0, 1), ("USD", 7, 0, 1)]
    assert await trial(books, prefix="Customer:") == []
    assert await trial(books, prefix="customer:33") == []
    answer = await ask(books, prefix="customer:")
    assert (answer.json["prefix"], answer.json["data"][0]["net"]) == ("customer:", 100)


@pytest.mark.usefixtures("settled_at_once")
async def test_an_instant_of_the_past(books: Client) -> None:
    """The sums at any instant, borders included, are those of the balances then, and net to zero."""
    names = ("world", "world-usd", "customer:1", "customer:2", "customer:3", "customer:4", "zebra")
    late = (await books.open("late", floor=None)).json["created_at"]
    await books.transfer("late", "customer:1", 5, effective_at="2020-01-01T00:00:00Z")
    happened = [row["created_at"] for row in (await books.get("/v1/transfers?limit=100")).json["data"]]
    opened = [(await books.account(name))["created_at"] for name in (*names, "late")]
    borders = {shifted(instant, step) for instant in (*happened, *opened) for step in (-1, 0, 1)}
    for at in sorted(borders):
        expected: dict[str, list[int]] = {}
        for name in (*names, "late"):
            account = await books.account(name)
            if account["created_at"] <= at:
                balance = (await books.get(f"/v1/accounts/{name}/balance?at={quote(at)}")).json["balance"]
                sums = expected.setdefault(account["currency"], [0, 0, 0])
                sums[0] -= min(balance, 0)
                sums[1] += max(balance, 0)
                sums[2] += 1
        found = await trial(books, at=at)
        assert found == [(currency, *sums) for currency, sums in sorted(expected.items())], at
        assert all(debit == credit for _, debit, credit, _ in found)
        part = await trial(books, at=at, prefix="customer:")
        assert all(row[3] <= 4 for row in part)
    answer = await ask(books, at=late)
    assert answer.json["at"] == late
    assert await trial(books, at=shifted(min(opened), -1)) == []


@pytest.mark.usefixtures("settled_at_once")
async def test_entries_before_an_account_was_opened_count(books: Client, service: Service) -> None:
    """If the clock was set back after an account was opened, the balance it had before that is in the sums."""
    at = (await books.transfer("customer:1", "customer:2", 1)).json["created_at"]
    await administer(
        service.database_url,
        "UPDATE tallystick.accounts SET created_at = $2 WHERE id = 'customer:2' AND ledger_id = $1",
        int(str(books.token).split("_")[1], 16),
        datetime.fromisoformat(at) + timedelta(seconds=1),
    )
    assert (await trial(books, at=at))[0] == ("EUR", 129, 129, 4)


async def test_sums_may_pass_64_bits(client: Client) -> None:
    """Accounts may hold more together than 64 bits can express."""
    large = 2**63 - 1
    for name in ("w1", "w2", "a1", "a2"):
        await client.open(name, floor=None)
    for number in ("1", "2"):
        assert (await client.transfer(f"w{number}", f"a{number}", large)).status == 201
    assert await trial(client) == [("EUR", 2 * large, 2 * large, 4)]


async def test_an_empty_ledger_has_no_sums(client: Client) -> None:
    """A ledger without accounts has no currencies."""
    assert await trial(client) == []
    assert await trial(client, at="2020-01-01T00:00:00Z") == []


async def test_holds_play_no_part(books: Client) -> None:
    """A hold does not change the sums."""
    before = await trial(books)
    assert (await books.transfer("customer:1", "customer:2", 10, hold=True)).status == 201
    assert await trial(books) == before


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"at": "2999-01-01T00:00:00Z"}, "at"),
        ({"at": "yesterday"}, "at"),
        ({"prefix": "-"}, "prefix"),
        ({"prefix": "x" * 65}, "prefix"),
        ({"prefix": "ü"}, "prefix"),
    ],
)
async def test_a_wrong_query_is_refused(client: Client, query: dict[str, str], pointer: str) -> None:
    """An instant in the future, a malformed instant and an impossible prefix are a 400 that names the parameter."""
    answer = await ask(client, **query)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


async def test_so_many_currencies(books: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer's size is bounded: with more currencies the caller has to narrow the prefix."""
    monkeypatch.setattr(trial_balance, "CURRENCIES_MAX", 2)
    answer = await ask(books)
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "prefix")
    assert len(await trial(books, prefix="customer:")) == 2


async def test_the_last_moments_are_waited_for(
    books: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A posting that has its instant but is not committed yet is waited for and counted."""
    monkeypatch.setattr(trial_balance, "SETTLED", timedelta(seconds=1.5))
    async with inserts_held(service.database_url):
        posting = asyncio.create_task(books.transfer("customer:1", "customer:2", 9))
        await until(partial(somebody_waits, service.database_url))
        at = datetime.now(UTC).isoformat()
        asked = asyncio.create_task(ask(books, at=at))
        # Long enough for an answer that does not wait, and shorter than a posting's lock timeout.
        done, _ = await asyncio.wait([asked], timeout=0.1)
        assert not done
    posted = await posting
    assert posted.status == 201, posted
    answer = await asked
    # On a slow machine the posting is retried and has a later instant.
    assert answer.json["data"][0]["debit"] == (121 if posted.json["created_at"] <= at.replace("+00:00", "Z") else 130)
    assert (await ask(books, at=at)).body == answer.body


class Slow:
    """
    Trial balances that run until `end` is set.

    Attributes:
        reports: The object that makes them, once one has started.
    """

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.reports: Reports | None = None

    def turns(self) -> list[int]:
        """Return, for each ledger, how many are running or waiting."""
        return [] if self.reports is None else sorted(turn.count for turn in self.reports._turns.values())


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slow]:
    """Make every trial balance wait until the test ends it."""
    slowly = Slow()
    original = Reports._run

    async def run(self: Reports, *arguments: Any) -> Any:
        slowly.reports = self
        await slowly.end.wait()
        return await original(self, *arguments)

    monkeypatch.setattr(Reports, "_run", run)
    yield slowly
    slowly.end.set()


async def test_a_large_one_starves_nobody(
    books: Client, service: Service, ledger: str, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial balance takes no place and no pooled connection; each ledger makes one at a time, and others wait."""
    monkeypatch.setattr(reports, "REPORT_WAITERS_MAX", 2)
    assert service.app is not None
    app = service.app
    others = [await service.client(f"{ledger}-{number}") for number in range(2)]
    mine = [asyncio.create_task(ask(books)) for _ in range(3)]
    await until(lambda: slow.turns() == [3])
    refused = await ask(books)
    assert (refused.status, refused.code) == (503, "overloaded")
    # One other ledger gets the second connection; a third ledger has to wait.
    theirs = [asyncio.create_task(ask(other)) for other in others]
    await until(lambda: slow.turns() == [1, 1, 3])
    assert slow.reports is not None
    assert slow.reports._connections.locked()
    assert (app.server.pipeline.admission.reads, app.server.pipeline.admission.writes) == (0, 0)
    assert app.database.reading_pool.idle == app.database.reading_pool.size
    assert (await books.transfer("customer:1", "customer:2", 1)).status == 201
    assert (await books.account("customer:1"))["balance"] == 74
    assert not any(task.done() for task in (*mine, *theirs))
    slow.end.set()
    answers = [await task for task in (*mine, *theirs)]
    assert [answer.status for answer in answers] == [200] * 5
    assert slow.turns() == []


async def test_who_waits_too_long_is_told(books: Client, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial balance whose turn does not come in time is a 503."""
    monkeypatch.setattr(reports, "REPORT_WAIT_SECONDS", 0.05)
    first = asyncio.create_task(ask(books))
    await until(lambda: slow.turns() == [1])
    refused = await ask(books)
    assert (refused.status, refused.code) == (503, "overloaded")
    slow.end.set()
    assert (await first).status == 200


async def test_one_that_takes_too_long_is_ended(books: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL cancels a long one at its own timeout: it is a 503, and the next one is served."""
    monkeypatch.setitem(reports.REPORT_SETTINGS, "statement_timeout", "50")
    sleep = "SELECT pg_sleep(10) WHERE $1::bigint > 0 AND $2::text[] <> '{}' AND $3::text[] <> '{}' AND $4::bigint > 0"
    with monkeypatch.context() as patch:
        patch.setattr(reports, "query", lambda name: sleep)
        answer = await ask(books)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert len(await trial(books)) == 3


async def test_it_is_not_distorted_by_a_running_posting(books: Client) -> None:
    """Each trial balance is of one moment and nets to zero, however many transfers commit at the same time."""

    async def post() -> None:
        for number in range(20):
            sides = ("customer:1", "customer:2") if number % 2 else ("customer:3", "world")
            assert (await books.transfer(*sides, 3)).status == 201

    async def look() -> None:
        for _ in range(10):
            assert all(debit == credit for _, debit, credit, _ in await trial(books))

    await asyncio.gather(post(), post(), look())
